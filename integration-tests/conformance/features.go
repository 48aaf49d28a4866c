// Package conformance runs the conformance suite of the Gateway API in a
// cluster whose control plane is Fairway. `make conformance` compiles its test
// into a program and runs that on the stage.
package conformance

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// The classes whose status says what works.
const (
	gatewayClass  = "istio"
	waypointClass = "istio-waypoint"
)

// notByIstiod is what istiod does not claim to do in ambient mode either.
var notByIstiod = map[features.FeatureName]string{
	features.SupportGatewayBackendClientCertificate:               "istiod does not claim it",
	features.SupportGatewayHTTPSListenerDetectMisdirectedRequests: "istiod does not claim it",
	features.SupportMeshConsumerRoute:                             "istiod does not claim it in ambient mode: a waypoint is of the producer",
	features.SupportUDPRoute:                                      "istiod does not claim it: Istio has no routes for UDP",
}

// A choice is what of the suite is run: features to test, and the reasons not
// to test others.
type choice struct {
	test sets.Set[features.FeatureName]
	not  map[features.FeatureName]string
}

// choose says which features to test. Whoever asks for "core" wants what every
// implementation has to do, for "istiod" what istiod claims, for "claimed" what
// Fairway's GatewayClasses claim, and for "all" everything.
func choose(which string, claims map[features.FeatureName][]string, profiles []suite.ConformanceProfileName) (choice, error) {
	all := features.SetsToNamesSet(features.AllFeatures)
	not := map[features.FeatureName]string{}
	switch which {
	case "istiod":
		for feature, reason := range notByIstiod {
			not[feature] = reason
		}
	case "claimed":
		for feature := range all {
			if len(claims[feature]) == 0 {
				not[feature] = "no GatewayClass claims it"
			}
		}
	case "core":
		core := features.SetsToNamesSet(
			features.GatewayCoreFeatures, features.ReferenceGrantCoreFeatures, features.HTTPRouteCoreFeatures,
			features.GRPCRouteCoreFeatures, features.TLSRouteCoreFeatures, features.MeshCoreFeatures,
		)
		// Whoever does not claim these has to refuse them, and Fairway does
		// them.
		core.Insert(features.SupportTLSRouteModeTerminate, features.SupportTLSRouteModeMixed)
		for feature := range all.Difference(core) {
			not[feature] = "it is not of the core"
		}
	case "all":
	default:
		return choice{}, fmt.Errorf("-features is %q, not core, istiod, claimed or all", which)
	}
	// The suite has a feature of its own for each half of it.
	halves := map[features.FeatureName][]suite.ConformanceProfileName{
		features.SupportGateway: {
			suite.GatewayHTTPConformanceProfileName, suite.GatewayGRPCConformanceProfileName,
			suite.GatewayTLSConformanceProfileName, suite.GatewayTCPConformanceProfileName,
			suite.GatewayUDPConformanceProfileName,
		},
		features.SupportMesh: {suite.MeshHTTPConformanceProfileName, suite.MeshGRPCConformanceProfileName},
	}
	for half, its := range halves {
		wanted := slices.ContainsFunc(profiles, func(profile suite.ConformanceProfileName) bool {
			return slices.Contains(its, profile)
		})
		if wanted {
			delete(not, half)
		} else {
			not[half] = "no profile that needs it was asked for"
		}
	}
	for feature := range not {
		all.Delete(feature)
	}
	return choice{test: all, not: not}, nil
}

// claimed says which GatewayClasses claim each feature.
func claimed(ctx context.Context, c client.Client) (map[features.FeatureName][]string, error) {
	claims := map[features.FeatureName][]string{}
	for _, name := range []string{gatewayClass, waypointClass} {
		class := &gateway.GatewayClass{}
		if err := c.Get(ctx, types.NamespacedName{Name: name}, class); err != nil {
			return nil, fmt.Errorf("GatewayClass %s: %w", name, err)
		}
		for _, feature := range class.Status.SupportedFeatures {
			feature := features.FeatureName(feature.Name)
			claims[feature] = append(claims[feature], name)
		}
	}
	return claims, nil
}

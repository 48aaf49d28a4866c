package conformance

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/tests"
	timeouts "sigs.k8s.io/gateway-api/conformance/utils/config"
	helpers "sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
	"sigs.k8s.io/yaml"
)

// Beside the suite's own flags.
var (
	only   = flag.String("run", "", "a regular expression that the names of the tests to run match")
	which  = flag.String("features", "istiod", "the features to test: what istiod claims (istiod), what Fairway claims (claimed), the core, or all")
	output = flag.String("output", ".", "the folder to write the report and the table to")
)

// TestConformance runs the suite against the cluster of KUBECONFIG.
func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	// The API server is ours alone.
	options.RestConfig.QPS, options.RestConfig.Burst = 200, 400
	options.GatewayClassName = gatewayClass
	// Whoever runs the suite again finds them, and a stage is thrown away.
	options.CleanupBaseResources = false
	options.TimeoutConfig = times()
	if len(options.ConformanceProfiles) == 0 {
		options.ConformanceProfiles = []suite.ConformanceProfileName{
			suite.GatewayHTTPConformanceProfileName, suite.GatewayTLSConformanceProfileName,
			suite.GatewayGRPCConformanceProfileName, suite.GatewayTCPConformanceProfileName,
			suite.MeshHTTPConformanceProfileName,
		}
	}
	options.Implementation.Organization, options.Implementation.Project = "fairway", "fairway"
	hostname := gateway.HostnameAddressType
	// A Gateway with the name of a Service is served by that Service's pods.
	options.UsableNetworkAddresses = []gateway.GatewaySpecAddress{
		{Type: &hostname, Value: "infra-backend-v1.gateway-conformance-infra.svc.cluster.local"},
	}
	options.UnusableNetworkAddresses = []gateway.GatewaySpecAddress{{Type: &hostname, Value: "nowhere"}}

	for _, class := range []string{gatewayClass, waypointClass} {
		helpers.GWCMustHaveAcceptedConditionTrue(t, options.Client, options.TimeoutConfig, class)
	}
	claims, err := claimed(t.Context(), options.Client)
	require.NoError(t, err)
	choice, err := choose(*which, claims, options.ConformanceProfiles)
	require.NoError(t, err)
	options.SupportedFeatures = choice.test.UnsortedList()

	results := newResults(*output, tests.ConformanceTests, claims)
	t.Cleanup(func() { require.NoError(t, results.write()) })
	options.Hook = results.record
	pattern, err := regexp.Compile(*only)
	require.NoError(t, err)
	for _, test := range tests.ConformanceTests {
		if !pattern.MatchString(test.ShortName) {
			options.SkipTests = append(options.SkipTests, test.ShortName)
			results.skip(test.ShortName, "it was not asked for: -run "+*only)
		}
		for _, feature := range test.Features {
			if reason, not := choice.not[feature]; not {
				results.skip(test.ShortName, string(feature)+": "+reason)
			}
		}
	}

	conformance, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	// Registered before the suite's own, so that it comes after: there is no
	// report of a suite that runs.
	t.Cleanup(func() {
		report, err := conformance.Report()
		require.NoError(t, err)
		text, err := yaml.Marshal(report)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(*output, "report.yaml"), text, 0o644))
	})
	conformance.Setup(t, tests.ConformanceTests)
	if choice.test.Has(features.SupportMesh) {
		enrol(t, options.Client)
	}
	require.NoError(t, conformance.Run(t, results.timed(tests.ConformanceTests)))
}

// times is how long the suite waits: no longer than its defaults, so that what
// passes here passes elsewhere, and shorter where a cluster in the cloud would
// take its time.
func times() timeouts.TimeoutConfig {
	times := timeouts.DefaultTimeoutConfig()
	times.GatewayMustHaveAddress = 60 * time.Second
	times.GatewayMustHaveCondition = 60 * time.Second
	times.ListenerSetMustHaveCondition = 60 * time.Second
	times.NamespacesMustBeReady = 180 * time.Second
	return times
}

// enrol takes the namespaces of the suite into the mesh, as a person would:
// pods of ambient mode, and a waypoint for those whose routes are tested. The
// namespace of the gateways stays outside, so that there are backends of both
// kinds.
func enrol(t *testing.T, c client.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	waypoint := &gateway.Gateway{
		ObjectMeta: meta.ObjectMeta{Name: "waypoint", Namespace: suite.MeshNamespace},
		Spec: gateway.GatewaySpec{
			GatewayClassName: waypointClass,
			Listeners:        []gateway.Listener{{Name: "mesh", Port: 15008, Protocol: "HBONE"}},
		},
	}
	if err := c.Create(ctx, waypoint); !errors.IsAlreadyExists(err) {
		require.NoError(t, err)
	}
	label := func(name string, labels map[string]string) {
		namespace := &core.Namespace{}
		err := c.Get(ctx, types.NamespacedName{Name: name}, namespace)
		if errors.IsNotFound(err) {
			// Of a half of the suite that is not run.
			return
		}
		require.NoError(t, err)
		before := client.MergeFrom(namespace.DeepCopy())
		for key, value := range labels {
			namespace.Labels[key] = value
		}
		require.NoError(t, c.Patch(ctx, namespace, before))
	}
	ambient := map[string]string{"istio.io/dataplane-mode": "ambient"}
	label(suite.MeshNamespace, map[string]string{"istio.io/use-waypoint": waypoint.Name})
	for _, name := range []string{
		suite.MeshNamespace, suite.MeshConsumerNamespace, suite.AppBackendNamespace, suite.WebBackendNamespace,
	} {
		label(name, ambient)
	}
	helpers.GatewayMustHaveLatestConditions(t, c, times(), client.ObjectKeyFromObject(waypoint))
	helpers.GatewayMustHaveCondition(t, c, times(), client.ObjectKeyFromObject(waypoint), meta.Condition{
		Type: string(gateway.GatewayConditionProgrammed), Status: meta.ConditionTrue,
	})
	captured(t, c)
}

// captured waits until the pods of the mesh are known to be in it.
func captured(t *testing.T, c client.Client) {
	t.Helper()
	require.Eventually(t, func() bool {
		pods := &core.PodList{}
		if err := c.List(t.Context(), pods, client.InNamespace(suite.MeshNamespace), client.HasLabels{"app"}); err != nil {
			return false
		}
		for _, pod := range pods.Items {
			if pod.Annotations["ambient.istio.io/redirection"] != "enabled" {
				return false
			}
		}
		return len(pods.Items) > 0
	}, time.Minute, 100*time.Millisecond, "not all pods of %s are captured", suite.MeshNamespace)
}

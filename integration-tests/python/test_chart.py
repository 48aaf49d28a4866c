"""The chart: what is installed with the values that istiod's users have."""

import json
import re

import pytest
import yaml
from fairway import ROOT
from helm import CHART, NAMESPACE, VALUES, helm, notes, rendered, values

NAMES = sorted(file.stem for file in VALUES.glob("*.yaml"))
#: Those with which there is no Deployment.
CLUSTER_ONLY = ["cluster-scope"]


def suffix(name):
    revision = yaml.safe_load(values(name).read_text()).get("revision")
    return f"-{revision}" if revision else ""


def one(name, kind, called=None):
    """One object. Its name is istiod's if none is given."""
    called = called or f"istiod{suffix(name)}"
    objects = rendered(name)
    assert (kind, called) in objects, f"no {kind} {called} among {sorted(objects)}"
    return objects[kind, called]


def pod(name):
    return one(name, "Deployment")["spec"]["template"]


def container(name):
    [container] = pod(name)["spec"]["containers"]
    return container


def environment(name):
    return {variable["name"]: variable.get("value") for variable in container(name)["env"]}


def mesh(name):
    return yaml.safe_load(one(name, "ConfigMap", f"istio{suffix(name)}")["data"]["mesh"])


def injector_values(name):
    return json.loads(one(name, "ConfigMap", f"istio-sidecar-injector{suffix(name)}")["data"]["values"])


def without_effect(name):
    """The values that the chart says it does not read."""
    text = one(name, "ConfigMap", f"values{suffix(name)}")["data"]["values-without-effect"]
    return dict(line.split(": ", 1) for line in text.strip().splitlines())


# Whatever the values are.


@pytest.mark.parametrize("name", NAMES)
def test_lint_finds_nothing(name):
    said = helm("lint", "--strict", CHART, f"--namespace={NAMESPACE}", f"--values={values(name)}").stdout
    assert "0 chart(s) failed" in said


@pytest.mark.parametrize("name", NAMES)
def test_objects_are_where_and_whose_they_should_be(name):
    clusterwide = {"ClusterRole", "ClusterRoleBinding"}
    for (kind, _), made in rendered(name).items():
        metadata = made["metadata"]
        assert metadata.get("namespace") == (None if kind in clusterwide else NAMESPACE)
        assert metadata["labels"]["app.kubernetes.io/instance"] == "istiod"
        assert metadata["labels"]["istio.io/rev"] == (suffix(name)[1:] or "default")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLUSTER_ONLY])
def test_the_service_and_all_selectors_find_the_pods(name):
    labels = pod(name)["metadata"]["labels"]
    found = [one(name, "Deployment")["spec"]["selector"]["matchLabels"]]
    found += [made["spec"]["selector"] for (kind, _), made in rendered(name).items() if kind == "Service"]
    for kind, field in [("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")]:
        if (kind, f"istiod{suffix(name)}") in rendered(name):
            found.append(one(name, kind)["spec"][field]["matchLabels"])
    for selector in found:
        assert selector.items() <= labels.items()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLUSTER_ONLY])
def test_what_others_expect_of_istiod_is_there(name):
    ports = {port["name"]: (port["port"], port.get("targetPort", port["port"])) for port in one(name, "Service")["spec"]["ports"]}
    assert ports == {
        "grpc-xds": (15010, 15010), "https-dns": (15012, 15012),
        "https-webhook": (443, 15017), "http-monitoring": (15014, 15014),
    }
    assert {port["containerPort"] for port in container(name)["ports"]} == {8080, 15010, 15012, 15014, 15017}
    assert container(name)["args"][:2] == ["discovery", "--monitoringAddr=:15014"]
    assert container(name)["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 8080}
    assert pod(name)["metadata"]["labels"]["istio.io/dataplane-mode"] == "none"
    assert {"key": "cni.istio.io/not-ready", "operator": "Exists"} in pod(name)["spec"]["tolerations"]
    names = [variable["name"] for variable in container(name)["env"]]
    assert len(names) == len(set(names)), "a variable is there twice"
    assert {"POD_NAME", "POD_NAMESPACE", "SERVICE_ACCOUNT", "REVISION", "CLUSTER_ID"} <= set(names)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLUSTER_ONLY])
def test_istioctl_finds_what_it_reads_of_the_injection(name):
    """Without the first of these `istioctl analyze` panics."""
    called = f"istio-sidecar-injector{suffix(name)}"
    if ("ConfigMap", called) in rendered(name):
        found = injector_values(name)
        assert found["sidecarInjectorWebhook"]["enableNamespacesByDefault"] is False
        assert all(found["global"][key] for key in ["hub", "tag"]) and found["global"]["proxy"]["image"]
        assert "clusterName" in found["global"]["multiCluster"]
        assert found["global"]["proxy"]["logLevel"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CLUSTER_ONLY])
def test_the_pod_may_do_as_little_as_possible(name):
    context = container(name)["securityContext"]
    assert context["runAsNonRoot"] and context["readOnlyRootFilesystem"]
    assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
    assert "runAsUser" not in context, "some clusters give every namespace its own"
    volumes = {volume["name"] for volume in pod(name)["spec"]["volumes"]}
    assert {mount["name"] for mount in container(name)["volumeMounts"]} == volumes
    assert pod(name)["spec"]["serviceAccountName"] == one(name, "ServiceAccount")["metadata"]["name"]


@pytest.mark.parametrize("name", NAMES)
def test_rights_are_those_of_the_files(name):
    expected = {"ClusterRole": "cluster-role.yaml", "Role": "role.yaml"}
    for (kind, called), made in rendered(name).items():
        if kind in expected:
            assert made["rules"] == yaml.safe_load((CHART / "files" / expected[kind]).read_text())["rules"]
            [subject] = rendered(name)[f"{kind}Binding", called]["subjects"]
            assert subject == {"kind": "ServiceAccount", "name": f"istiod{suffix(name)}", "namespace": NAMESPACE}


# One by one.


def test_nothing_said_is_ambient_mode():
    # What the user gave is kept in a ConfigMap; all else is equal.
    said, unsaid = dict(rendered("ambient")), dict(rendered("minimal"))
    said.pop(("ConfigMap", "values")), unsaid.pop(("ConfigMap", "values"))
    assert said == unsaid
    assert environment("minimal")["PILOT_ENABLE_AMBIENT"] == "true"
    assert mesh("minimal")["defaultConfig"]["proxyMetadata"] == {"ISTIO_META_ENABLE_HBONE": "true"}
    assert mesh("minimal")["defaultConfig"]["discoveryAddress"] == "istiod.istio-system.svc:15012"
    assert mesh("minimal")["defaultProviders"] == {"metrics": ["prometheus"]}
    assert injector_values("minimal")["global"]["variant"] == "distroless"
    assert environment("minimal")["CA_TRUSTED_NODE_ACCOUNTS"] == "istio-system/ztunnel"
    assert container("minimal")["image"] == "fairway:0.1.0"
    assert one("minimal", "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 1
    assert ("PodDisruptionBudget", "istiod") not in rendered("minimal"), "it would forbid to drain nodes"
    assert without_effect("minimal") == {}


def test_values_below_pilot_are_those_at_the_top():
    nested, flat = dict(rendered("nested")), dict(rendered("flat"))
    nested.pop(("ConfigMap", "values")), flat.pop(("ConfigMap", "values"))
    assert nested == flat
    assert without_effect("nested") == without_effect("flat") == {}


def test_values_of_old_charts():
    found = environment("nested")
    assert found["PILOT_DEBOUNCE_AFTER"] == "200ms" and found["XDS_AUTH_PLAINTEXT"] == "true"
    assert found["ISTIO_GPRC_MAXSTREAMS"] == "1000000", "not 1e+06"
    assert found["PILOT_ENABLE_AMBIENT"] == "true", "the profile is still there"
    assert container("nested")["args"][2:5] == ["--log_output_level=default:info,ads:debug", "--domain", "corp.local"]
    assert container("nested")["resources"] == {"requests": {"cpu": "2", "memory": "4Gi"}}
    assert pod("nested")["spec"]["nodeSelector"] == {"pool": "mesh"}
    assert pod("nested")["metadata"]["annotations"]["example.com/checked"] == "1"
    assert one("nested", "Service")["metadata"]["annotations"] == {"example.com/team": "mesh"}
    scaler = one("nested", "HorizontalPodAutoscaler")["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (2, 4)
    assert scaler["metrics"][0]["resource"]["target"]["averageUtilization"] == 60
    assert mesh("nested")["defaultConfig"]["tracing"] == {"sampling": 5}
    assert one("nested", "PodDisruptionBudget")["spec"]["minAvailable"] == 1


def test_high_availability():
    said = yaml.safe_load(values("high-availability").read_text())
    spec = pod("high-availability")["spec"]
    assert spec["affinity"] == said["affinity"]
    assert spec["topologySpreadConstraints"] == said["topologySpreadConstraints"]
    assert spec["tolerations"][1:] == said["tolerations"]
    assert spec["priorityClassName"] == "system-cluster-critical"
    deployment = one("high-availability", "Deployment")["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in deployment, "the autoscaler's, or an upgrade would take replicas away"
    scaler = one("high-availability", "HorizontalPodAutoscaler")["spec"]
    assert [metric["resource"]["name"] for metric in scaler["metrics"]] == ["cpu", "memory"]
    assert scaler["behavior"] == said["autoscaleBehavior"]
    budget = one("high-availability", "PodDisruptionBudget")["spec"]
    assert budget["minAvailable"] == 2 and budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert one("high-availability", "Service")["spec"]["trafficDistribution"] == "PreferClose"


def test_a_fixed_number_of_replicas():
    assert one("fixed-replicas", "Deployment")["spec"]["replicas"] == 3
    assert ("HorizontalPodAutoscaler", "istiod") not in rendered("fixed-replicas")
    budget = one("fixed-replicas", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1 and "minAvailable" not in budget


def test_a_revision_is_in_every_name():
    for (_, called) in rendered("revision"):
        assert "1-30-4" in called or called.startswith("istiod-revision-tag-"), called
    assert environment("revision")["REVISION"] == "1-30-4"
    assert mesh("revision")["defaultConfig"]["discoveryAddress"] == "istiod-1-30-4.istio-system.svc:15012"
    for tag in ["prod", "canary"]:
        service = one("revision", "Service", f"istiod-revision-tag-{tag}")
        assert service["metadata"]["labels"]["istio.io/tag"] == tag
        assert service["spec"] == one("revision", "Service")["spec"]
    assert pod("revision")["metadata"]["labels"]["istio"] == "istiod", "the plain Service must not find it"
    both = set(rendered("revision")) & set(rendered("minimal"))
    assert not both, "two revisions live side by side"


def test_the_revision_default_is_none():
    assert set(rendered("minimal", "--set=revision=default")) == set(rendered("minimal"))


def test_openshift():
    assert environment("openshift")["CA_TRUSTED_NODE_ACCOUNTS"] == "kube-system/ztunnel"
    assert container("openshift")["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert injector_values("openshift")["global"]["platform"] == "openshift"


def test_other_platforms_need_nothing():
    assert injector_values("gke")["global"]["platform"] == "gke"
    assert "resourceQuotas" in without_effect("gke")


def test_the_profile_demo():
    assert one("demo", "Deployment")["spec"]["replicas"] == 1
    assert container("demo")["resources"]["requests"] == {"cpu": "10m", "memory": "100Mi"}
    assert mesh("demo")["accessLogFile"] == "/dev/stdout"
    assert mesh("demo")["defaultConfig"]["tracing"] == {"sampling": 100}
    assert "PILOT_ENABLE_AMBIENT" not in environment("demo")
    assert "variant" not in injector_values("demo")["global"] or not injector_values("demo")["global"]["variant"]


@pytest.mark.parametrize("profile", ["default", "minimal", "empty", "preview", "stable"])
def test_other_profiles(profile):
    assert ("Deployment", "istiod") in rendered("minimal", f"--set=profile={profile}")


@pytest.mark.parametrize("wrong, said", [
    ("profile=remote", "profile"),
    ("profile=platform-openshift", "profile"),
    ("platform=plan9", "platform"),
    ("istiodRemote.enabled=true", "istiodRemote.enabled"),
    ("global.externalIstiod=true", "global.externalIstiod"),
    ("global.pilotCertProvider=kubernetes", "global.pilotCertProvider"),
    ("global.pilotCertProvider=k8s.io/clusterissuers.cert-manager.io/mesh", "global.pilotCertProvider"),
    ("pilot.env.EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API", "env.EXTERNAL_CA"),
    ("global.resourceScope=some", "global.resourceScope"),
])
def test_installations_of_another_shape_are_refused(wrong, said):
    done = helm("template", "istiod", CHART, f"--set={wrong}", check=False)
    assert done.returncode != 0 and f"{said}:" in done.stderr


def test_another_authority_is_left_to_whoever_says_that_nothing_is_signed_here():
    arguments = ["--set=env.EXTERNAL_CA=ISTIOD_RA_KUBERNETES_API", "--set-string=env.ENABLE_CA_SERVER=false"]
    assert ("Deployment", "istiod") in rendered("minimal", *arguments)


@pytest.mark.parametrize("wrong, said", [
    ("revisionTags=prod", 'revisionTags: "prod" is not a list'),
    ("pilot.tolerations.key=a", 'tolerations: {"key":"a"} is not a list'),
    ("nodeSelector=web", 'nodeSelector: "web" is not a map'),
    ("global.imagePullSecrets=pull", 'global.imagePullSecrets: "pull" is not a list'),
])
def test_a_value_of_another_shape_is_refused_by_name(wrong, said):
    done = helm("template", "istiod", CHART, f"--set={wrong}", check=False)
    assert done.returncode != 0 and said in done.stderr


def test_images_of_the_control_plane_and_of_proxies_are_said_apart():
    assert container("private-registry")["image"] == "registry.example.com/mesh/fairway:7"
    assert container("private-registry")["imagePullPolicy"] == "Always"
    assert one("private-registry", "ServiceAccount")["imagePullSecrets"] == [{"name": "pull"}]
    proxies = injector_values("private-registry")["global"]
    assert (proxies["hub"], proxies["tag"], proxies["variant"]) == ("registry.example.com/istio", "1.29.2", "debug")
    assert container("whole-image")["image"] == yaml.safe_load(values("whole-image").read_text())["image"]
    assert list(without_effect("private-registry")) == ["imagePullSecrets"]


@pytest.mark.parametrize("hub, warned", [
    ("gcr.io/istio-release", True), ("docker.io/istio", True), ("registry.istio.io/release", True),
    ("registry.example.com/mesh", False),
])
def test_a_registry_of_istiod_is_warned_of(hub, warned):
    """It may be left over from values of istiod, and nothing would be pulled."""
    said = notes("minimal", f"--set=hub={hub},tag=1.30.3")
    assert f"Its image is {hub}/fairway:1.30.3." in said
    assert (f"WARNING: {hub} is where the images of istiod are" in said) == warned
    assert "WARNING" not in notes("whole-image", f"--set=hub={hub}")


def test_the_image_of_istiod_is_not_run():
    assert container("image-of-istiod")["image"] == "fairway:0.1.0"
    assert "istiod" in without_effect("image-of-istiod")["image"]


def test_the_mesh_configuration_is_kept_whole():
    said = yaml.safe_load(values("multi-network").read_text())
    found = mesh("multi-network")
    for field in ["trustDomain", "trustDomainAliases", "rootNamespace", "extensionProviders", "defaultProviders"]:
        assert found[field] == said["meshConfig"][field]
    assert found["defaultConfig"]["holdApplicationUntilProxyStarts"] is True
    assert found["defaultConfig"]["meshId"] == "mesh1"
    networks = yaml.safe_load(one("multi-network", "ConfigMap", "istio")["data"]["meshNetworks"])
    assert networks == {"networks": said["global"]["meshNetworks"]}
    assert environment("multi-network")["CLUSTER_ID"] == "cluster1"
    proxies = injector_values("multi-network")["global"]
    assert (proxies["network"], proxies["meshID"], proxies["caAddress"]) == ("network1", "mesh1", "ca.example.com:443")


def test_who_ztunnel_is():
    assert environment("ztunnel-elsewhere")["CA_TRUSTED_NODE_ACCOUNTS"] == "kube-system/ztunnel-default"
    assert environment("trusted-accounts")["CA_TRUSTED_NODE_ACCOUNTS"] == "kube-system/ztunnel,edge/ztunnel"


def test_both_address_families():
    for called in ["istiod", "istiod-revision-tag-stable"]:
        spec = one("dual-stack", "Service", called)["spec"]
        assert spec["ipFamilyPolicy"] == "RequireDualStack" and spec["ipFamilies"] == ["IPv4", "IPv6"]


def test_tracing():
    assert mesh("tracing")["defaultConfig"]["tracing"] == {
        "sampling": 50, "zipkin": {"address": "zipkin.observability:9411"},
    }


def test_no_telemetry_is_said_explicitly():
    assert mesh("telemetry-off")["defaultProviders"] == {"metrics": []}


def test_what_users_add_to_the_pod():
    found = environment("extras")
    assert found["ENABLE_CA_SERVER"] == "false" and found["REVISION"] == "mine"
    assert found["PILOT_CA_CERT_CONFIGMAP"] == "mesh-root"
    assert container("extras")["env"][-1]["valueFrom"]["configMapKeyRef"]["name"] == "ca"
    arguments = container("extras")["args"]
    assert arguments[-2:] == ["--keepaliveInterval=60s", "--shutdownDuration=20s"]
    assert "--log_as_json" in arguments
    assert arguments[arguments.index("--keepaliveMaxServerConnectionAge") + 1] == "10m"
    spec = pod("extras")["spec"]
    assert spec["initContainers"][0]["image"] == "registry.example.com/wait:default"
    assert spec["initContainers"][0]["command"] == ["wait", NAMESPACE]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["extra"]["configMap"] == {"name": "extra"}
    assert volumes["istio-csr-ca-configmap"]["configMap"]["name"] == "mesh-root"
    [token] = volumes["istio-token"]["projected"]["sources"]
    assert token["serviceAccountToken"]["audience"] == "mesh-ca"
    roots = one("extras", "ConfigMap", volumes["extracacerts"]["configMap"]["name"])["data"]
    assert "BEGIN CERTIFICATE" in roots["extra.pem"]
    assert one("extras", "Deployment")["metadata"]["labels"]["team"] == "mesh"
    assert one("extras", "Deployment")["metadata"]["annotations"] == {"example.com/ticket": "12"}
    assert one("extras", "Deployment")["metadata"]["labels"]["release"] == "mine"
    labels = pod("extras")["metadata"]["labels"]
    assert labels["cost-centre"] == "42" and labels["app.kubernetes.io/part-of"] == "mesh"
    assert labels["app"] == "istiod", "the Service has to find it"
    assert pod("extras")["metadata"]["annotations"]["prometheus.io/scrape"] == "false"
    assert one("extras", "ServiceAccount")["metadata"]["annotations"] == {"iam.example.com/role": "mesh"}


def test_a_hardened_cluster():
    [rule] = one("hardened", "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == {8080, 15010, 15012, 15014}
    assert container("hardened")["securityContext"]["seccompProfile"]["localhostProfile"] == "profiles/mesh.json"
    assert injector_values("hardened")["gateways"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_scopes_divide_the_objects():
    cluster, namespace = set(rendered("cluster-scope")), set(rendered("namespace-scope"))
    assert {kind for kind, _ in cluster} == {"ClusterRole", "ClusterRoleBinding"}
    assert not cluster & namespace and cluster | namespace == set(rendered("minimal"))


def test_definitions_are_made_blindly_only_if_somebody_says_so():
    """Without a cluster Helm cannot know whether Istio has them."""
    def definitions(*settings, name="minimal"):
        return {called for kind, called in rendered(name, *settings) if kind == "CustomResourceDefinition"}

    assert definitions() == set()
    told = "--set=base.enableCRDTemplates=true"
    known = {one["metadata"]["name"] for one in yaml.safe_load_all((CHART / "files/crds.yaml").read_text()) if one}
    assert definitions(told) == known and "virtualservices.networking.istio.io" in known
    left_out = "virtualservices.networking.istio.io"
    assert definitions(told, f"--set=base.excludedCRDs={{{left_out}}}") == known - {left_out}
    assert definitions(told, "--set=base.enableIstioConfigCRDs=false") == set()
    assert definitions(told, name="namespace-scope") == set()
    assert definitions(told, name="cluster-scope") == known


def test_classes_of_gateways():
    defaults = one("gateway-classes", "ConfigMap", "istio-default-gatewayclass-istio-waypoint")
    assert defaults["metadata"]["labels"]["gateway.istio.io/defaults-for-class"] == "istio-waypoint"
    assert yaml.safe_load(defaults["data"]["deployment"]) == {"spec": {"replicas": 2}}
    waypoint = injector_values("gateway-classes")["global"]["waypoint"]
    assert waypoint["resources"] == {"requests": {"cpu": "500m", "memory": "128Mi"}, "limits": {"cpu": "2"}}
    assert waypoint["nodeSelector"] == {"pool": "mesh"}


def test_alerts_and_dashboard():
    rule = one("observability", "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())
    dashboard = one("observability", "ConfigMap", "fairway-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["fairway.json"]) == json.loads((CHART / "dashboards/fairway.json").read_text())


def test_config_maps_may_be_somebody_elses():
    assert {called for kind, called in rendered("own-config-map") if kind == "ConfigMap"} == {"values"}


def test_null_takes_a_default_away():
    assert container("taken-away")["resources"] == {"requests": {"memory": "256Mi"}, "limits": {"memory": "1Gi"}}
    assert "seccompProfile" not in container("taken-away")["securityContext"]
    assert "enablePrometheusMerge" not in mesh("taken-away")
    [metric] = one("taken-away", "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"]["name"] == "memory"


def test_a_name_with_nothing_below_it_takes_nothing_away():
    """A block of comments is null to YAML."""
    assert mesh("nothing-below") == mesh("minimal")
    assert environment("nothing-below") == environment("minimal")
    assert injector_values("nothing-below")["global"]["hub"] == injector_values("minimal")["global"]["hub"]
    assert without_effect("nothing-below") == {}


def test_secrets_for_images_may_be_named_as_pods_name_them():
    assert one("nothing-below", "ServiceAccount")["imagePullSecrets"] == [{"name": "pull"}, {"name": "push"}]
    assert injector_values("nothing-below")["global"]["imagePullSecrets"] == ["pull", "push"]


def test_what_is_given_as_defaults_is_below_the_profile_and_the_user():
    assert container("istiods-defaults")["image"] == "fairway:0.1.0"
    assert pod("istiods-defaults")["spec"]["nodeSelector"] == {"pool": "mesh"}
    assert mesh("istiods-defaults")["accessLogFile"] == "/dev/stdout"
    assert injector_values("istiods-defaults")["global"]["variant"] == "distroless", "the profile says so"
    assert one("istiods-defaults", "HorizontalPodAutoscaler")["spec"]["minReplicas"] == 3
    assert one("istiods-defaults", "Deployment")["metadata"]["labels"]["team"] == "mesh"
    assert set(without_effect("istiods-defaults")) == {
        "image", "global.proxy.statusPort", "global.proxy.frobnicate", "frobnicate", "pilot.autoscaleMax",
    }


def test_read_only():
    assert "--read-only" in container("read-only")["args"]
    assert "It writes nothing" in notes("read-only")
    assert not any("--read-only" in argument for argument in container("minimal")["args"])


# What is not read is said.


def test_values_without_effect_are_listed_with_the_reason():
    found = without_effect("sidecars")
    assert found["autoscaleMim"] == found["global.frobnicate.often"] == "not a value of this chart, nor of istiod's"
    expected = {
        "base.enableIstioConfigCRDs": None, "base.validationFailurePolicy": "webhook", "cni": "CNI agent",
        "compatibilityVersion": "istiod", "global.certSigners": "Kubernetes", "global.enableReaderRBAC": "clusters",
        "global.multiCluster.enabled": "one cluster", "global.proxy.autoInject": "sidecars",
        "global.proxy.holdApplicationUntilProxyStarts": "sidecars", "global.proxy.statusPort": "sidecars",
        "global.proxy_init": "sidecars", "sidecarInjectorWebhook": "sidecars", "taint": "nodes",
        "telemetry.v2.stackdriver": "Stackdriver",
    }
    for path, reason in expected.items():
        if reason is None:
            assert path not in found, "what is false asks for nothing"
        else:
            assert reason in found[path], path
    others = set(found) - set(expected) - {"autoscaleMim", "global.frobnicate.often"}
    assert not others, others
    said = notes("sidecars")
    assert all(f"* {path}: {reason}" in said for path, reason in found.items())
    assert "WARNING: taint.enabled" in said


@pytest.mark.parametrize("name", NAMES)
def test_notes_list_what_has_no_effect_and_nothing_else(name):
    listed = re.findall(r"^  \* (\S+):", notes(name), re.M)
    assert listed == ([] if name in CLUSTER_ONLY else list(without_effect(name)))


def test_every_default_is_in_the_table_of_values():
    table = yaml.safe_load((CHART / "files/values-table.yaml").read_text())
    assert not set(table["read"]) & set(table["ignored"])
    assert table["read"] == sorted(table["read"])

    def leaves(value, path):
        if path and ".".join(path) in table["read"]:
            return
        if not isinstance(value, dict):
            yield ".".join(path)
            return
        for key, below in value.items():
            yield from leaves(below, [*path, key])

    defaults = yaml.safe_load((CHART / "values.yaml").read_text())["defaults"]
    assert list(leaves(defaults, [])) == []


def test_the_chart_is_of_this_version():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert chart["appVersion"] == version


def test_two_charts_of_one_release_have_equal_selectors():
    """A selector cannot be changed, so these are what istiod's chart has: that is
    how a release changes to this chart and back."""
    assert one("minimal", "Deployment")["spec"]["selector"] == {"matchLabels": {"istio": "pilot"}}
    assert one("revision", "Deployment")["spec"]["selector"] == {
        "matchLabels": {"app": "istiod", "istio.io/rev": "1-30-4"},
    }

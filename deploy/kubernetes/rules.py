"""What no schema says: enums, names, and what in one place must fit what stands in another. Each rule is one of Kubernetes' own (its
API server would refuse the object), of JobSet's, Kueue's or Kubeflow Trainer's, or of this project (no root, no privileges)."""
import re

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
QUANTITY = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]+)?")
FACTORS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, **{
    unit + "i": 1024 ** power for power, unit in enumerate("KMGTPE", 1)}}

# By the end of the path at which a value stands: what it may be.
ENUMS = {
    "spec.completionMode": {"Indexed", "NonIndexed"},
    "spec.podReplacementPolicy": {"Failed", "TerminatingOrFailed"},
    "podFailurePolicy.rules.action": {"Ignore", "FailJob", "FailIndex", "Count"},
    "onExitCodes.operator": {"In", "NotIn"},
    "onPodConditions.status": {"True", "False", "Unknown"},
    "spec.restartPolicy": {"Never", "OnFailure"},
    "containers.imagePullPolicy": {"Always", "IfNotPresent", "Never"},
    "seccompProfile.type": {"RuntimeDefault", "Localhost", "Unconfined"},
    "securityContext.fsGroupChangePolicy": {"OnRootMismatch", "Always"},
    "emptyDir.medium": {"", "Memory"},
    "tolerations.operator": {"Exists", "Equal"},
    "tolerations.effect": {"NoSchedule", "PreferNoSchedule", "NoExecute"},
    "topologySpreadConstraints.whenUnsatisfiable": {"DoNotSchedule", "ScheduleAnyway"},
    "spec.accessModes": {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"},
    "spec.volumeMode": {"Filesystem", "Block"},
    "spec.policyTypes": {"Ingress", "Egress"},
    "ports.protocol": {"TCP", "UDP", "SCTP"},
    "spec.type": {"ClusterIP", "ExternalName", "NodePort", "LoadBalancer"},
    "capabilities.drop": {"ALL"},
    "successPolicy.operator": {"All", "Any"},
    "failurePolicy.rules.action": {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"},
    "failurePolicy.restartStrategy": {"Recreate", "BlockingRecreate"},
    "onJobFailureReasons": {"BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy"},
    "runtimeRef.kind": {"TrainingRuntime", "ClusterTrainingRuntime"},
    "runtimeRef.apiGroup": {"trainer.kubeflow.org"},
}

# Kinds that neither package has: every field they may have here.
OWN_SCHEMAS = {
    "PodMonitor": {
        "apiVersion": "monitoring.coreos.com/v1", "kind": str,
        "metadata": dict,
        "spec": {"selector": {"matchLabels": dict}, "podMetricsEndpoints": [{
            "port": str, "path": str, "interval": str, "scheme": "https", "tlsConfig": dict,
            "authorization": {"credentials": {"name": str, "key": "page-observer"}},
        }]},
    },
}


def own_schema(document):
    def hold(value, form, path):
        if isinstance(form, str):
            if value != form:
                yield f"{path} is {value!r}, not {form!r}"
        elif isinstance(form, type):
            if not isinstance(value, form):
                yield f"{path} is no {form.__name__}"
        elif isinstance(form, list):
            if not isinstance(value, list) or not value:
                yield f"{path} is no list"
            else:
                for one in value:
                    yield from hold(one, form[0], path)
        elif set(value) != set(form):
            yield f"{path} has {sorted(value)}, not {sorted(form)}"
        else:
            for key in form:
                yield from hold(value[key], form[key], f"{path}.{key}")
    return hold(document, OWN_SCHEMAS[document["kind"]], document["kind"])


def label(text):
    return isinstance(text, str) and len(text) <= 63 and bool(LABEL.fullmatch(text))


def subdomain(text):
    return isinstance(text, str) and len(text) <= 253 and all(map(label, text.split(".")))


def key(text):
    prefix, slash, name = text.rpartition("/")
    return len(name) <= 63 and bool(QUALIFIED.fullmatch(name)) and (not slash or subdomain(prefix))


def number(quantity):
    match = QUANTITY.fullmatch(str(quantity))
    return float(match[1]) * FACTORS[match[3] or ""] if match and (match[3] or "") in FACTORS else None


def walk(value, path=()):
    """Every value with its path, list indices left out."""
    yield path, value
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from walk(inner, path + (name,))
    for inner in value if isinstance(value, list) else ():
        yield from walk(inner, path)


def replicated(document):
    """The JobSet spec in a document."""
    if document.get("kind") == "JobSet":
        return document["spec"]
    if document.get("kind") == "TrainingRuntime":
        return document["spec"]["template"]["spec"]
    return None


def jobs_in(document):
    """The specs of the Jobs in a document."""
    if document.get("kind") == "Job":
        return [document["spec"]]
    spec = replicated(document)
    return [job["template"]["spec"] for job in spec["replicatedJobs"]] if spec else []


def of_document(document):
    metadata = document.get("metadata") or {}
    if not subdomain(metadata.get("name")):
        yield f"the name {metadata.get('name')!r}"
    if "namespace" in metadata and not label(metadata["namespace"]):
        yield f"the namespace {metadata['namespace']!r}"
    for path, value in walk(document):
        dotted = ".".join(map(str, path))
        if path and path[-1] == "labels" or path and path[-1] == "matchLabels":
            for name, text in value.items():
                if not key(name) or len(text) > 63 or text and not QUALIFIED.fullmatch(text):
                    yield f"{dotted}: the label {name}={text}"
        if path and path[-1] == "annotations":
            yield from (f"{dotted}: the annotation {name}" for name in value if not key(name))
        if path and path[-1] == "topologyKey" and not key(value):
            yield f"{dotted}: {value!r} is no key"
        for end, allowed in ENUMS.items():
            if dotted == end or dotted.endswith("." + end):
                # A ConfigMap's data has no enums.
                given = value if isinstance(value, list) else [value]
                yield from (f"{dotted} is {one!r}, not one of {sorted(allowed)}" for one in given
                            if not isinstance(one, (dict, list)) and one not in allowed)
        if path and path[-1] in ("requests", "limits", "sizeLimit") and document["kind"] != "ConfigMap":
            quantities = value if isinstance(value, dict) else {path[-1]: value}
            yield from (f"{dotted}.{name}: {text!r} is no quantity" for name, text in quantities.items() if number(text) is None)
    for job in jobs_in(document):
        yield from of_job(job)
        yield from of_pod(job["template"])
    yield from of_kind(document)


def of_kind(document):
    kind, spec, name = document["kind"], document.get("spec") or {}, document["metadata"]["name"]
    if kind == "Job" and spec.get("completionMode") == "Indexed":
        host = f"{name}-{spec['completions'] - 1}"
        if not label(host):
            yield f"its last pod's host name would be {host!r}"
        if spec["template"]["spec"].get("subdomain") is None:
            yield "without a subdomain its pods have no names in the network"
    if kind == "Secret" and ("data" in document or "stringData" in document):
        yield "a key stands in the manifest"
    if kind == "Service" and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"a service cannot be called {name!r}"
    inside = replicated(document)
    if inside:
        names = [job["name"] for job in inside["replicatedJobs"]]
        if len(set(names)) != len(names):
            yield "two replicated jobs have one name"
        for job in inside["replicatedJobs"]:
            last = f"{name}-{job['name']}-{job['replicas'] - 1}-{job['template']['spec']['completions'] - 1}"
            # A pod's name has five random letters more.
            if not label(last + "-xxxxx"):
                yield f"its last pod would be called {last!r}"
            if "suspend" in job["template"]["spec"]:
                yield "the JobSet suspends, not its Jobs"
        targets = inside["successPolicy"].get("targetReplicatedJobs", []) + [
            target for rule in inside["failurePolicy"]["rules"] for target in rule.get("targetReplicatedJobs", [])]
        yield from (f"a policy is for {target!r}, which is not there" for target in targets if target not in names)
        rule_names = [rule["name"] for rule in inside["failurePolicy"]["rules"]]
        yield from (f"the rule {rule!r}" for rule in rule_names if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule))
    if kind == "TrainingRuntime":
        counted = [job for job in inside["replicatedJobs"]
                   if job["template"]["metadata"]["labels"].get("trainer.kubeflow.org/trainjob-ancestor-step") == "trainer"]
        containers = [c["name"] for job in counted for c in job["template"]["spec"]["template"]["spec"]["containers"]]
        if len(counted) != 1 or containers != ["node"]:
            yield "Kubeflow Trainer looks for one replicated job of the step trainer, with a container called node"
        if any(job["replicas"] != 1 for job in inside["replicatedJobs"]):
            yield "Kubeflow Trainer takes replicated jobs of one replica"


def of_job(job):
    policy = job.get("podFailurePolicy")
    pod = job["template"]["spec"]
    if policy and pod.get("restartPolicy") != "Never":
        yield "a pod failure policy goes with restartPolicy Never"
    if policy and job.get("podReplacementPolicy") not in (None, "Failed"):
        yield "a pod failure policy goes with podReplacementPolicy Failed"
    if "backoffLimitPerIndex" in job and job.get("completionMode") != "Indexed":
        yield "backoffLimitPerIndex goes with Indexed"
    if "backoffLimitPerIndex" in job and job["completions"] > 100_000:
        yield "an Indexed Job with backoffLimitPerIndex has at most 100000 pods"
    if job["parallelism"] != job["completions"]:
        yield "all nodes run at once"
    containers = {c["name"] for c in pod["containers"] + pod.get("initContainers", [])}
    for rule in policy["rules"] if policy else ():
        codes = rule.get("onExitCodes")
        if (codes is None) == (rule.get("onPodConditions") is None):
            yield "a rule is about codes or conditions"
        if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in job:
            yield "FailIndex goes with backoffLimitPerIndex"
        if codes:
            if codes["containerName"] not in containers:
                yield f"a rule is about the container {codes['containerName']!r}, which is not there"
            if codes["values"] != sorted(set(codes["values"])) or codes["operator"] == "In" and 0 in codes["values"]:
                yield f"exit codes {codes['values']} are to be sorted, each once, and not 0"
            if any(not 0 <= code <= 255 for code in codes["values"]):
                yield f"no process ends with one of {codes['values']}"


def of_pod(template):
    spec = template["spec"]
    volumes = [volume["name"] for volume in spec["volumes"]]
    if len(set(volumes)) != len(volumes):
        yield "two volumes have one name"
    if not spec["securityContext"].get("runAsNonRoot") or spec["securityContext"].get("runAsUser", 0) < 1:
        yield "a pod runs as root"
    if spec.get("automountServiceAccountToken") is not False:
        yield "a pod has a token of the cluster's"
    mounted = set()
    for container in spec["containers"] + spec.get("initContainers", []):
        name = container["name"]
        if not label(name):
            yield f"the container {name!r}"
        security = container["securityContext"]
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged") or security["capabilities"].get("add"):
            yield f"the container {name} has privileges"
        if security["capabilities"].get("drop") != ["ALL"] or security.get("readOnlyRootFilesystem") is not True:
            yield f"the container {name} keeps capabilities, or writes into its image"
        paths = [mount["mountPath"] for mount in container["volumeMounts"]]
        if len(set(paths)) != len(paths):
            yield f"the container {name} mounts two volumes at one place"
        mounted |= {mount["name"] for mount in container["volumeMounts"]}
        names = [variable["name"] for variable in container.get("env", [])]
        yield from (f"the variable {one!r}" for one in names if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", one) or names.count(one) > 1)
        yield from (f"the variable {one['name']} would be expanded" for one in container.get("env", []) if "$(" in one.get("value", ""))
        yield from (f"the port {port['name']!r}" for port in container.get("ports", [])
                    if len(port["name"]) > 15 or not label(port["name"]) or not 1 <= port["containerPort"] <= 65535)
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        for resource, text in requests.items():
            if resource in limits and number(text) > number(limits[resource]):
                yield f"the container {name} asks for more {resource} than it may have"
            if "/" in resource and (text != limits.get(resource) or not text.isdigit()):
                yield f"{resource} is asked for whole, and as much as there may be"
        image = container.get("image") or ""
        if not image or image != image.strip() or " " in image:
            yield f"the image {image!r}"
        yield from (f"the probe {probe} has no one way to ask" for probe in ("startupProbe", "readinessProbe", "livenessProbe")
                    if probe in container and len({"exec", "grpc", "httpGet", "tcpSocket"} & set(container[probe])) != 1)
    if mounted != set(volumes):
        yield f"the volumes are {sorted(volumes)}, and {sorted(mounted)} are mounted"
    for volume in spec["volumes"]:
        if len(set(volume) - {"name"}) != 1 or not label(volume["name"]):
            yield f"the volume {volume}"
    selectors = [constraint["labelSelector"] for constraint in spec.get("topologySpreadConstraints", [])]
    for selector in selectors:
        if not selector["matchLabels"].items() <= template["metadata"]["labels"].items():
            yield "pods are spread from others than their own kind"


def of_all(documents):
    """What one object says of another."""
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    if len(found) != len(documents):
        yield "two objects have one kind and name"
    if len({document["metadata"].get("namespace") for document in documents}) > 1:
        yield "the objects are in several namespaces"
    pods = [job["template"] for document in documents for job in jobs_in(document)]
    if len(pods) != 2:
        yield f"there are {len(pods)} kinds of pods, not a coordinator's and a node's"
    for pod in pods:
        for volume in pod["spec"]["volumes"]:
            if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in found:
                yield f"there is no ConfigMap {volume['configMap']['name']}"
            if "secret" in volume and ("Secret", volume["secret"]["secretName"]) not in found:
                yield f"there is no Secret {volume['secret']['secretName']}"
    for (kind, name), document in found.items():
        selector = {"Service": lambda d: d["spec"]["selector"], "NetworkPolicy": lambda d: d["spec"]["podSelector"]["matchLabels"]}.get(kind)
        if selector and not all(selector(document).items() <= pod["metadata"]["labels"].items() for pod in pods):
            yield f"{kind}/{name} does not find the run's pods"
        if kind == "TrainJob" and ("TrainingRuntime", document["spec"]["runtimeRef"]["name"]) not in found:
            yield f"TrainJob/{name} has no runtime"
        queue = document["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
        if queue is not None and (kind not in ("Job", "JobSet", "TrainJob") or document["spec"].get("suspend") is not True):
            yield f"{kind}/{name} waits in a queue and is not suspended"
    # The coordinator is where the nodes look for it.
    for pod in pods:
        for variable in pod["spec"]["containers"][0]["env"]:
            if variable["name"] != "BEGAN_COORDINATOR_ADDRESS":
                continue
            host, _, rest = variable["value"].partition(".")
            hosts = {f"{name}-0" for (kind, name), d in found.items() if kind == "Job"}
            hosts |= {f"{name}-{job['name']}-0-0" for (kind, name), d in found.items() if replicated(d) for job in replicated(d)["replicatedJobs"]}
            services = {name for kind, name in found if kind == "Service"} | {
                replicated(d)["network"]["subdomain"] for d in documents if replicated(d)}
            if host not in hosts or rest.partition(":")[0] not in services or not label(host):
                yield f"nobody is called {variable['value']!r}"
    for document in documents:
        for path, value in walk(document):
            if path and path[-1] == "kueue.x-k8s.io/podset-required-topology" and not key(value):
                yield f"{value!r} is no level of a topology"

"""Manifests made wrong in one place each: whatever checks manifests has to see every one of them."""
import copy


def at(document, path):
    for step in path:
        document = document[step]
    return document


def put(kind, path, value):
    def change(documents):
        for document in documents:
            if document["kind"] == kind:
                at(document, path[:-1])[path[-1]] = copy.deepcopy(value)
                return
        raise LookupError(kind)
    return f"{kind} {'.'.join(map(str, path))} = {value!r}", change


POD = ["spec", "template", "spec"]
JOB_IN_SET = ["spec", "replicatedJobs", 1, "template", "spec"]
SET_IN_RUNTIME = ["spec", "template", "spec"]

# For two Jobs; the first of them is the coordinator's.
OF_JOBS = [
    put("Job", ["spec", "completionMode"], "indexed"),
    put("Job", ["spec", "podReplacementPolicy"], "Never"),
    put("Job", ["spec", "podReplacementPolicy"], "TerminatingOrFailed"),
    put("Job", ["spec", "completion"], 1),
    put("Job", ["spec", "completions"], "1"),
    put("Job", ["spec", "podFailurePolicy", "rules", 0, "action"], "Restart"),
    put("Job", ["spec", "podFailurePolicy", "rules", 1, "onExitCodes", "operator"], "Equals"),
    put("Job", ["spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values"], [7, 3]),
    put("Job", ["spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values"], [0, 75]),
    put("Job", ["spec", "podFailurePolicy", "rules", 1, "onExitCodes", "containerName"], "other"),
    put("Job", ["spec", "podFailurePolicy", "rules", 1, "action"], "FailIndex"),
    put("Job", POD + ["restartPolicy"], "OnFailure"),
    put("Job", POD + ["restartPolicy"], "Sometimes"),
    put("Job", POD + ["subdomain"], None),
    put("Job", POD + ["securityContext", "runAsUser"], 0),
    put("Job", POD + ["securityContext", "seccompProfile", "type"], "Default"),
    put("Job", POD + ["containers", 0, "securityContext", "privileged"], True),
    put("Job", POD + ["containers", 0, "securityContext", "capabilities", "add"], ["SYS_ADMIN"]),
    put("Job", POD + ["containers", 0, "resources", "limits", "memory"], "1Gi"),
    put("Job", POD + ["containers", 0, "resources", "limits", "memory"], "lots"),
    put("Job", POD + ["containers", 0, "imagePullPolicy"], "Maybe"),
    put("Job", POD + ["containers", 0, "livenessProbe", "tcpSocket"], {"port": 1}),
    put("Job", POD + ["containers", 0, "volumeMounts", 0, "name"], "elsewhere"),
    put("Job", POD + ["containers", 0, "env", 0, "valeu"], "x"),
    put("Job", POD + ["volumes", 0, "configMap", "name"], "elsewhere"),
    put("Job", POD + ["tolerations"], [{"operator": "Exist"}]),
    put("Job", ["metadata", "name"], "Began"),
    put("Job", ["metadata", "name"], "elsewhere"),
    put("Job", ["metadata", "labels", "a b"], "x"),
    put("Job", ["apiVersion"], "batch/v2"),
    put("Service", ["spec", "clusterIp"], "None"),
    put("Service", ["spec", "selector"], {"app": "other"}),
    put("Service", ["metadata", "name"], "elsewhere"),
    put("NetworkPolicy", ["spec", "policyTypes"], ["Inwards"]),
    put("NetworkPolicy", ["spec", "egress", 1, "ports", 0, "protocol"], "udp"),
    put("NetworkPolicy", ["spec", "podSelector", "matchLabels"], {"app": "other"}),
    put("PersistentVolumeClaim", ["spec", "accessModes"], ["ReadWrite"]),
    put("PersistentVolumeClaim", ["spec", "resources", "requests", "storage"], "big"),
    put("ConfigMap", ["data", "run.toml"], 5),
    put("Secret", ["stringData"], {"token": "secret"}),
    put("ConfigMap", ["kind"], "ConfigMaps"),
]
OF_JOB_SET = [
    put("JobSet", ["spec", "successPolicy", "operator"], "Most"),
    put("JobSet", ["spec", "successPolicy", "targetReplicatedJobs"], ["other"]),
    put("JobSet", ["spec", "failurePolicy", "rules", 0, "action"], "Fail"),
    put("JobSet", ["spec", "failurePolicy", "rules", 0, "onJobFailureReasons"], ["Bad"]),
    put("JobSet", ["spec", "failurePolicy", "rules", 0, "name"], "9"),
    put("JobSet", ["spec", "network", "enableDnsHostnames"], True),
    put("JobSet", ["spec", "network", "subdomain"], "elsewhere"),
    put("JobSet", ["spec", "suspend"], "yes"),
    put("JobSet", ["spec", "suspend"], False),
    put("JobSet", ["spec", "replicatedJob"], []),
    put("JobSet", ["apiVersion"], "jobset.x-k8s.io/v1"),
    put("JobSet", JOB_IN_SET + ["completionMode"], "indexed"),
    put("JobSet", JOB_IN_SET + ["parallelism"], 3),
    put("JobSet", JOB_IN_SET + ["suspend"], True),
    put("JobSet", JOB_IN_SET + ["podFailurePolice"], {}),
    put("JobSet", JOB_IN_SET + ["template", "spec", "containers", 0, "resources", "limits", "nvidia.com/gpu"], "4"),
    put("JobSet", ["metadata", "labels", "kueue.x-k8s.io/queue-name"], "bad queue"),
    put("JobSet", JOB_IN_SET + ["template", "metadata", "annotations", "kueue.x-k8s.io/podset-required-topology"], "no/such/key"),
]
OF_TRAIN_JOB = [
    put("TrainJob", ["spec", "runtimeRef", "kind"], "Runtime"),
    put("TrainJob", ["spec", "runtimeRef", "name"], "elsewhere"),
    put("TrainJob", ["spec", "runtimeReference"], {}),
    put("TrainJob", ["spec", "trainer", "numNodes"], "four"),
    put("TrainJob", ["apiVersion"], "trainer.kubeflow.org/v1"),
    put("TrainingRuntime", ["spec", "mlPolicy", "nodes"], 4),
    put("TrainingRuntime", SET_IN_RUNTIME + ["replicatedJobs", 1, "template", "spec", "completions"], "4"),
    put("TrainingRuntime", SET_IN_RUNTIME + ["replicatedJobs", 1, "template", "metadata", "labels"], {}),
    put("TrainingRuntime", SET_IN_RUNTIME + ["successPolicy", "operator"], "Most"),
]
OF_MONITOR = [put("PodMonitor", ["spec", "endpoints"], []), put("PodMonitor", ["spec", "podMetricsEndpoints", 0, "path"], 5), put("PodMonitor", ["spec", "podMetricsEndpoints", 0, "scheme"], "http")]

# By the case that each is made in.
ALL = {"4x8": OF_JOBS, "4x8-kueue": OF_JOB_SET, "4x8-trainjob": OF_TRAIN_JOB, "4x8-rdma": OF_MONITOR}

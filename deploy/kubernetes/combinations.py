"""Flags of `launcher kubernetes`: combinations that are right, drawn at random, and single ones that are wrong."""

RIGHT = {
    "--name": ["began", "a", "faces-64", "x" * 40, "a0-b1"],
    "--namespace": ["default", "team-1", "n" * 63],
    "--image": ["began:0.1.0", "registry.example:5000/team/began:v1", "localhost/b", "r.example/a/b@sha256:" + "0123456789abcdef" * 4],
    "--image-pull-secret": ["pull", "pull.secret"],
    "--queue": ["users", "team.queue"],
    "--topology": ["topology.kubernetes.io/zone", "rack", "cloud.google.com/gce-topology-block"],
    "--node-selector": ["gpu=h100", "gpu=h100,pool=a_b.c", "example.com/x="],
    "--rdma": ["rdma/hca_shared_devices_a", "vpc.amazonaws.com/efa=32"],
    "--data": ["faces", ".", "/data", "/data/sets/faces.64", "sets/faces_64"],
    "--data-claim": ["photos", "my.photos"],
    "--runs-claim": ["results"],
    "--data-size": ["1Gi", "1.5Ti", "500G"],
    "--runs-size": ["2Gi"],
    "--storage-class": ["fast", "csi.fast"],
    "--cpus": ["1", "500m", "1.5"],
    "--memory": ["4Gi", "64G", "10000Mi"],
    "--monitoring": ["none", "annotations", "pod-monitor"],
    "--keys": ["token", "certificates"],
    "--grace": ["1", "0.5e2", "3600"],
    "--restarts": ["0", "100"],
    "--preset": ["demo", "paper-64", "paper-128", "paper-256"],
    "--set": ["run.steps=7", "run.lanes=2048", "guard.not_finite=rollback", "optimizer.rate=1e-3"],
}


def right(drawn):
    """Flags that must be taken."""
    device = drawn.choice(["cuda", "cpu"])
    nodes = drawn.choice([1, 2, 4, 16, 128])
    gpus = drawn.choice([1, 2, 4, 8]) if device == "cuda" else drawn.choice([1, 2, 12])
    flags = ["--nodes", str(nodes), "--gpus", str(gpus), "--device", device]
    flags += drawn.choice([[], ["--jobset"], ["--trainjob"]])
    if device == "cuda" and gpus <= 8 and drawn.random() < 0.3:
        flags += ["--machine", drawn.choice(["p5.48xlarge", "our-machine:8", "a2-megagpu-16g"])]
    if (device == "cpu" or nodes * gpus <= 8) and drawn.random() < 0.3:
        flags += ["--access", "ReadWriteOnce"]
    flags += drawn.choice([[], ["--prepare", "synthetic:faces", "--prepare-count", "100"], ["--prepare", "raw/celeba.zip"]])
    for name, values in RIGHT.items():
        if drawn.random() < 0.35:
            flags += [name, drawn.choice(values)]
    return flags


# Flags that must be refused, and what the refusal names.
WRONG = [(flags.split(), named) for flags, named in [
    ("--nodes 0", "--nodes"), ("--nodes -3", "--nodes"), ("--nodes 1.5", "--nodes"), ("--nodes 4294967296", "--nodes"),
    ("--nodes 99999", "--nodes"), ("--gpus 0", "--gpus"), ("--gpus 9", "--gpus"), ("--gpus 16 --machine p5.48xlarge", "p5.48xlarge"),
    ("--gpus 9 --device cpu --name", "--name"), ("--gpus 1025 --device cpu", "--gpus"), ("--machine box", "--machine"),
    ("--machine box:x", "--machine"), ("--name A", "--name"), ("--name 1a", "--name"), ("--name a-", "--name"), ("--name a.b", "--name"),
    ("--name " + "a" * 41, "--name"), ("--namespace a.b", "--namespace"), ("--namespace " + "n" * 64, "--namespace"),
    ("--image a:b:c", "--image"), ("--image A", "--image"), ("--image a@sha256:12", "--image"), ("--queue Q", "--queue"),
    ("--topology /x", "--topology"), ("--topology a/b/c", "--topology"), ("--node-selector x", "--node-selector"),
    ("--rdma hca", "--rdma"), ("--rdma rdma/hca=many", "--rdma"), ("--data /etc", "--data"), ("--data a/../../b", "--data"),
    ("--data-claim Photos", "--data-claim"), ("--runs-claim a_b", "--runs-claim"), ("--storage-class x-", "--storage-class"),
    ("--data-size 5", "--data-size"), ("--data-size 5GB", "--data-size"), ("--runs-size many", "--runs-size"), ("--cpus 0", "--cpus"),
    ("--cpus 1Gi", "--cpus"), ("--memory 16", "--memory"), ("--memory 16m", "--memory"), ("--memory 16gb", "--memory"),
    ("--memory 1Gi --shared-memory 1Gi", "--shared-memory"), ("--shared-memory x", "--shared-memory"), ("--grace 0", "--grace"),
    ("--grace soon", "--grace"), ("--restarts -1", "--restarts"), ("--restarts x", "--restarts"), ("--device tpu", "--device"),
    ("--device auto", "--device"), ("--jobset --trainjob", "--trainjob"), ("--monitoring loud", "--monitoring"), ("--keys none", "--keys"),
    ("--access Sometimes", "--access"), ("--access ReadWriteOnce --nodes 2 --gpus 8", "--access"), ("--prepare synthetic:faces", "--prepare-count"),
    ("--prepare ../x", "--prepare"), ("--prepare-count 3", "--prepare"), ("--preset best", "--preset"), ("--config /no/such.toml", "/no/such.toml"),
    ("--set run.step=1", "run.steps"), ("--set run.steps", "--set"), ("--set run.steps=0", "run.steps"), ("--set data.path=/x", "--data"),
    ("--set run.lanes=1 --nodes 2", "run.lanes"), ("--set run.min_trainers=5 --set run.lanes=8", "run.min_trainers"), ("--fast", "--fast"),
]]

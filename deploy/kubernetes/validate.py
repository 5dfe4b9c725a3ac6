#!/usr/bin/env python3
"""Checks manifests as a cluster would, without one: `make test-kubernetes`, or `validate.py FILE...`.

Every document is held against the strict schemas of every Kubernetes from OLDEST to the newest that `kubernetes-validate` has
(in which an unknown field is an error), JobSets, TrainJobs and TrainingRuntimes against the models of `kubeflow_trainer_api`
(what they do not take over unchanged is an error) with the Jobs inside them against Kubernetes' own, and all of them against
rules.py: the enums and cross-references that no schema has. A kind that nothing here knows is an error, never a warning.

With --launcher it prints manifests itself: the cases of this folder, which must be what is printed, and then combinations of flags
drawn at random, each printed and checked; flags that are wrong, each to be refused with a sentence that names it; and manifests
made wrong in one place each, in which it has to see that.
"""
import argparse
import copy
import functools
import pathlib
import random
import subprocess
import sys

import yaml

import combinations
import mutations
import rules

try:
    import kubernetes_validate
    from kubernetes_validate import utils
    from kubeflow_trainer_api import models
except ImportError as missing:
    sys.exit(f"validate: {missing}; `make test-kubernetes` installs what is needed")

HERE = pathlib.Path(__file__).resolve().parent
# The oldest with backoffLimitPerIndex and podReplacementPolicy switched on without being asked.
OLDEST = "1.29"
utils.schema_contents = functools.cache(utils.schema_contents)
MODELS = {"JobSet": ("jobset.x-k8s.io/v1alpha2", models.JobsetV1alpha2JobSet),
          "TrainJob": ("trainer.kubeflow.org/v1alpha1", models.TrainerV1alpha1TrainJob),
          "TrainingRuntime": ("trainer.kubeflow.org/v1alpha1", models.TrainerV1alpha1TrainingRuntime)}


class Strict(yaml.SafeLoader):
    """A key that stands twice is an error."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"{twice} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


@functools.cache
def versions():
    """Every version from the oldest supported to the newest known, as 1.29."""
    known = dict.fromkeys(tuple(map(int, version.split(".")[:2])) for version in utils.all_versions())
    oldest = tuple(map(int, OLDEST.split(".")))
    return [f"{major}.{minor}" for major, minor in sorted(known) if (major, minor) >= oldest]


def builtin(document, among):
    """What the schemas of Kubernetes say against it."""
    wrong = []
    for version in among:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            wrong.append(f"Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            wrong.append(f"Kubernetes {version}: {error.message}")
    return wrong


def modelled(document):
    """What the models of JobSet and Kubeflow Trainer say against it: what they leave out or change they do not know."""
    version, model = MODELS[document["kind"]]
    if document["apiVersion"] != version:
        return [f"{document['kind']}: it is of {document['apiVersion']}, and {version} is known"]
    try:
        understood = model.from_dict(document).to_dict()
    except Exception as error:  # pydantic's, and its own
        return [f"{document['kind']}: {error}"]
    return [f"{document['kind']}: {place}" for place in differences(document, plain(understood))]


def plain(value):
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(getattr(value, "actual_instance", value))


def differences(said, understood, path=""):
    if isinstance(said, dict) and isinstance(understood, dict):
        for key, value in said.items():
            if key not in understood:
                yield f"{path}.{key} is not known"
            else:
                yield from differences(value, understood[key], f"{path}.{key}")
    elif isinstance(said, list) and isinstance(understood, list) and len(said) == len(understood):
        for index, (one, other) in enumerate(zip(said, understood)):
            yield from differences(one, other, f"{path}[{index}]")
    elif said != understood and str(said) != str(understood):
        yield f"{path} is {said!r} and is taken for {understood!r}"


def check(text, among):
    """What is wrong with a text of manifests."""
    try:
        documents = [document for document in yaml.load_all(text, Loader=Strict) if document]
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    wrong = []
    for document in documents:
        kind, name = document.get("kind"), (document.get("metadata") or {}).get("name")
        if kind in MODELS:
            found = modelled(document)
            for job in rules.jobs_in(document):
                found += builtin({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "inside"}, "spec": job}, among)
        elif kind in rules.OWN_SCHEMAS:
            found = list(rules.own_schema(document))
        else:
            found = builtin(document, among)
        wrong += [f"{kind}/{name}: {what}" for what in found + said(rules.of_document, document)]
    return wrong + said(rules.of_all, documents)


def said(rule, about):
    """What a rule says. One that stumbles found something it never expected."""
    try:
        return list(rule(about))
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        return [f"no rule expects this: {error!r}"]


def printed(launcher, flags):
    return subprocess.run([launcher, "kubernetes", *flags], capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin"})


def cases():
    for line in (HERE / "cases").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, *flags = line.split()
            yield name, flags


def blind():
    """What is wrong on purpose and is not seen."""
    unseen = []
    for name, changes in mutations.ALL.items():
        sound = list(yaml.safe_load_all((HERE / name / "began.yaml").read_text()))
        for what, change in changes:
            changed = copy.deepcopy(sound)
            change(changed)
            if not check(yaml.safe_dump_all(changed), [OLDEST]):
                unseen.append(f"{name}: nothing is said against {what}")
    return unseen


def with_launcher(launcher, count, seed):
    known = versions()
    wrong = []
    for name, flags in cases():
        made = printed(launcher, flags)
        kept = (HERE / name / "began.yaml").read_text()
        if made.returncode or made.stdout != kept:
            wrong.append(f"{name}: the file is not what `launcher kubernetes {' '.join(flags)}` prints; `make kubernetes-manifests` "
                         f"prints it again {made.stderr}")
        wrong += [f"{name}: {what}" for what in check(kept, known)]
    drawn = random.Random(seed)
    for _ in range(count):
        flags = combinations.right(drawn)
        made = printed(launcher, flags)
        if made.returncode:
            wrong.append(f"{' '.join(flags)}: refused: {made.stderr.strip()}")
            continue
        # The ends always; in between only what lies in the files.
        wrong += [f"{' '.join(flags)}: {what}" for what in check(made.stdout, [known[0], known[-1]])]
    for flags, named in combinations.WRONG:
        made = printed(launcher, flags)
        sentence = made.stderr.strip()
        if made.returncode != 2 or made.stdout or named not in sentence or "panicked" in sentence:
            wrong.append(f"{' '.join(flags)}: not refused by {named!r}, but: {made.returncode} {sentence!r} {made.stdout[:80]!r}")
    wrong += blind()
    print(f"validate: {sum(map(len, mutations.ALL.values()))} manifests that are wrong in one place are seen to be") if not wrong else None
    print(f"validate: {len(list(cases()))} cases against Kubernetes {', '.join(known)}; {count} combinations of flags (seed {seed}) against "
          f"{known[0]} and {known[-1]}; {len(combinations.WRONG)} wrong ones")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="manifests; - is standard input")
    parser.add_argument("--launcher", help="print and check what this one prints")
    parser.add_argument("--count", type=int, default=60, help="combinations of flags to draw")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    wrong = []
    for file in args.files:
        text = sys.stdin.read() if file == "-" else pathlib.Path(file).read_text()
        wrong += [f"{file}: {what}" for what in check(text, versions())]
    if args.launcher:
        wrong += with_launcher(str(pathlib.Path(args.launcher).resolve()), args.count, args.seed)
    for what in wrong:
        print(f"wrong: {what}", file=sys.stderr)
    if not args.files and not args.launcher:
        parser.error("nothing to check: name files, or --launcher")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

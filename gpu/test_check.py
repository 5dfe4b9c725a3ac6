"""The GPU check with made-up programs in the place of the real ones: what it does with faults, and what it leaves behind."""
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import blocks  # noqa: E402
import pack  # noqa: E402
import page  # noqa: E402
import traces  # noqa: E402

NAMES = ["machine", "correctness", "digest", "bench", "convolutions", "sharing", "pytorch", "profile"]

PROGRAMS = {
    "bin/trainer": """
        import json, os, sys, time
        command, words = sys.argv[1], sys.argv[2:]
        fault = os.environ.get("FAULT", "")
        if command == "conform":
            if fault == "differs" and "plain-32" in words[0]:
                print(" 3.00e-01 of 1e-1  step0/grad/discriminator.encoder.input.bias  OVER")
                print("9 of 10 tensors within their bounds of the fixture")
                sys.exit(1)
            print("10 of 10 tensors within their bounds of the fixture")
            print(" 1.00e-10 of 1e-9  the worst of gradients: step0/grad/a.bias")
        elif command == "bench":
            print("starting", flush=True)
            if fault == "hangs" and "--brief" not in words:
                time.sleep(3600)
            if fault == "dies":
                os.kill(os.getpid(), 11)
            if fault == "passes":
                print("bias and ELU go in two passes: none of these loads")
            if "--trace" in words:
                events = [{"ph": "X", "cat": cat, "name": "k%d" % (i % 3), "ts": 10.0 * i, "dur": 6.0} for i in range(6)
                          for cat in ("kernel", "cpu_op")]
                json.dump({"traceEvents": events}, open(words[words.index("--trace") + 1], "w"))
            at = lambda name: words[words.index(name) + 1]
            print(json.dumps({"committed": 1}))
            line = {"variant": "alone", "batch": int(at("--batch")), "precision": at("--precision"), "images_per_s": 100.0, "ms_per_step": 1.5,
                    "upsampling": at("--upsampling") if "--upsampling" in words else "transposed",
                    "skip": at("--skip") if "--skip" in words else "folded"}
            if fault == "no figure":
                sys.exit()
            print(json.dumps(line | ({} if "--brief" in words else {"stages_ms": [["Adam", 0.1]]})))
        elif command == "prepare":
            os.makedirs(words[words.index("--out") + 1])
    """,
    "bin/launcher": """
        import os, pathlib, sqlite3, subprocess, sys, time
        words = sys.argv[1:]
        if words[0] == "digest":
            name = pathlib.Path(words[1]).name
            print("40 " + ("other" if os.environ.get("FAULT") == "bits" and name == "of-2" else "large" if "large" in name else "same"))
            sys.exit()
        folder, here = pathlib.Path(words[words.index("--run") + 1]), pathlib.Path(__file__).resolve().parent
        folder.mkdir()
        (folder / "logs").mkdir()
        (folder / "logs/trainer.log").write_text("what the trainer said last")
        (folder / "run.toml").write_text("")
        count = int(words[words.index("--gpus") + 1])
        # Called as a trainer is, so that it is found by its command line; bash runs the file "run".
        trainers = [subprocess.Popen([str(here / "trainer"), "run", "--run", str(folder)], executable="/bin/bash", cwd=here) for _ in range(count)]
        journal = sqlite3.connect(folder / "run.db", isolation_level=None)
        journal.execute("pragma synchronous=off")
        journal.execute("create table steps (step integer)")
        steps = next(int(word.removeprefix("run.steps=")) for word in words if word.startswith("run.steps="))
        for step in range(steps):
            journal.execute("insert into steps values (?)", (step,))
            # Long enough after a fifth of the steps for a kill.
            time.sleep(2.0 / steps if "killed" in folder.name else 0)
        for trainer in trainers:
            trainer.kill()
        sys.exit(9 if os.environ.get("FAULT") == "run fails" and folder.name == "of-4" else 0)
    """,
    "bin/kernels-tests": """
        import os
        if os.environ.get("FAULT") == "skip":
            print("skipped: no NVRTC here")
        print("test result: ok. 5 passed; 0 failed")
    """,
    "bin/nccl-device-tests": """
        import os
        print("test result: ok. %d passed; 0 failed" % (0 if os.environ.get("FAULT") == "no test" else 4))
    """,
    "machine.py": """
        import json, sys
        open(sys.argv[sys.argv.index("--cudnn") + 1], "w").write("{}")
        print(json.dumps({"torch": "2.11.0+cu130", "cuda": "13.0", "cudnn": 91900, "matrix_side": 8192, "matrix_tflop_per_s": 790.0,
                          "copy_tb_per_s": 3.0, "cudnn_device": "cudnn-device.json, 2 bytes"}))
    """,
    "convolutions.py": """
        import json
        for mode, ms in (("deterministic", 2.0), ("benchmark", 1.0)):
            print(json.dumps({"convolution": "encoder.input", "operation": "fprop", "batch": 16, "mode": mode, "ms": ms, "host_ms": 0.01, "tflop_per_s": 1.0 / ms,
                              "gflop": 1.0, "kernels": [["a_kernel", 1.0]]}))
    """,
    "began_torch.py": """
        import json, os, sys
        words = sys.argv[1:]
        if words[0] == "variants":
            print("single-backward/fp32")
            print("single-backward/fp32+compile")
        elif words[0] == "fixture":
            open(words[1], "w").write("a fixture")
        else:
            at = lambda name: words[words.index(name) + 1]
            name = at("--variants")
            if "graph" in name:
                print(json.dumps({"variant": name, "skipped": "needs a GPU"}))
                sys.exit()
            if os.environ.get("FAULT") == "raises" and "compile" in name:
                print(json.dumps({"variant": name, "error": "RuntimeError: on purpose"}))
                sys.exit(1)
            print(json.dumps({"variant": name, "batch": int(at("--batch")), "images_per_s": 50.0, "ms_per_step": 3.0}))
    """,
}


def made_up(folder):
    """A pack of made-up programs; its folder."""
    made = folder / "gpu-pack"
    made.mkdir()
    for name in pack.SCRIPTS:
        shutil.copy2(HERE / name, made)
    for name in ("fixtures/clip-64.safetensors", "fixtures/plain-32.safetensors", "lib/libnccl_double.so", "data/faces-32/manifest.json"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    (made / "bin").mkdir()
    (made / "bin/run").write_text("sleep 60\n")
    for name, text in PROGRAMS.items():
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip())
        (made / name).write_text(f"#!{sys.executable} -IS\n" + "\n".join(line[indent:] for line in lines) + "\n")
        (made / name).chmod(0o755)
    # Python's torch is looked for, and not loaded.
    (made / "torch").mkdir()
    (made / "torch/__init__.py").write_text("raise ImportError('not to be loaded')\n")
    (made / "path").mkdir()
    shutil.copy2(HERE / "made_up_ncu.py", made / "path/ncu")
    (made / "path/ncu").chmod(0o755)
    files = {str(path.relative_to(made)): hashlib.sha256(path.read_bytes()).hexdigest() for path in made.rglob("*") if path.is_file()}
    (made / "manifest.json").write_text(json.dumps({"commit": "of this test", "torch": "2.11.0", "files": files}))
    return made


class Check(unittest.TestCase):
    """Each test runs the whole check, as a person would."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="began-check-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.pack, self.out = made_up(self.folder), self.folder / "out"

    def command(self, *more):
        return [sys.executable, str(self.pack / "check.py"), "--out", str(self.out), *more]

    def run_check(self, *more, fault="", code=0):
        env = os.environ | {"FAULT": fault, "PATH": f"{self.pack / 'path'}:{os.environ['PATH']}"}
        done = subprocess.run(self.command(*more), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout)
        return done.stdout

    def records(self):
        """Every block's record, from the archive."""
        with tarfile.open(self.out / "results.tar.gz") as tar:
            names = tar.getnames()
            found = {name[:-5]: json.loads(tar.extractfile(name).read()) for name in names if name.endswith(".json") and name[:-5] in NAMES}
        self.assertTrue(all(f"{name}.log" in names for name in found if found[name]["checks"]), names)
        return found

    def only(self, records, bad, names=None):
        """These blocks failed, all others passed, and none is missing."""
        self.assertEqual(list(records), sorted(names.split(",")) if names else sorted(NAMES))
        self.assertEqual({name for name, record in records.items() if record["outcome"] == "failed"}, bad,
                         {name: record["why"] for name, record in records.items()})
        self.assertEqual({name for name, record in records.items() if record["outcome"] not in ("passed", "failed")}, set())

    def test_everything_holds_and_eight_files_are_left(self):
        text = self.run_check()
        self.only(self.records(), set())
        files = sorted(path.name for path in self.out.iterdir())
        self.assertEqual(len(files), 8, files)
        # The last blocks have files of their own; all are in the archive.
        self.assertIn("profile.json", files)
        self.assertIn("profile.log", files)
        page_of = (self.out / "gpu.md").read_text()
        self.assertIn(page_of, text)
        # The table of blocks is the last thing but for one sentence.
        end = text[text.rindex("| block | outcome"):].strip().splitlines()
        self.assertEqual([len(end), end[-1]], [2 + len(NAMES) + 2, "check: everything held"])
        for words in ("| machine | passed |", "began bf16, transposed and folded | 100.0 |", "PyTorch single-backward/fp32 | 50.0 | 3.00 | 2.00 |",
                      "| 16 | encoder.input | fprop | 2.0 | 0.5 | 1.0 | 2.00 |  | a_kernel |", "One step: 6 launches over 0.056 ms, 0.036 ms busy"):
            self.assertIn(words, page_of)

    def test_a_rehearsal_says_what_only_a_gpu_can_show(self):
        self.run_check("--device", "cpu")
        checks = {check["check"]: check for check in self.records()["profile"]["checks"]}
        self.assertEqual(checks["ncu over one step"]["outcome"], "needs a GPU")
        self.assertEqual(checks["ncu over one step"]["found"]["launches"], 6)

    def test_quick_is_machine_correctness_and_one_bench(self):
        self.run_check("--quick")
        records = self.records()
        self.assertEqual(sorted(records), ["bench", "correctness", "machine"])
        self.assertEqual(len(records["bench"]["checks"]), 1)

    def test_only_runs_what_is_named_and_an_unknown_name_is_refused(self):
        self.run_check("--only", "bench,machine")
        self.assertEqual(sorted(self.records()), ["bench", "machine"])
        text = self.run_check("--only", "bench,speed", code=2)
        self.assertIn("no block is called speed", text)
        self.assertIn("convolutions", text)

    def test_a_skip_is_a_failure(self):
        self.run_check("--only", "machine,correctness,convolutions", fault="skip", code=1)
        records = self.records()
        self.only(records, {"correctness"}, "machine,correctness,convolutions")
        self.assertIn("skipped: no NVRTC here", records["correctness"]["why"])

    def test_a_program_that_runs_no_test_has_not_passed(self):
        self.run_check("--only", "correctness", fault="no test", code=1)
        self.assertIn("nccl-device-tests ran no test", self.records()["correctness"]["why"])

    def test_a_bench_without_a_figure_has_failed_and_the_page_is_made(self):
        self.run_check("--only", "bench,convolutions,profile", fault="no figure", code=1)
        records = self.records()
        self.only(records, {"bench", "profile"}, "bench,convolutions,profile")
        self.assertIn("the bench gave no figure", records["bench"]["why"])
        self.assertIn("| bench | failed |", (self.out / "gpu.md").read_text())

    def test_kernels_that_were_not_used_are_a_failure(self):
        self.run_check("--only", "bench,convolutions,profile", fault="passes", code=1)
        records = self.records()
        self.only(records, {"bench", "profile"}, "bench,convolutions,profile")
        self.assertIn("go in two passes: none of these loads", records["bench"]["why"])

    def test_a_conform_that_differs_is_named_with_its_tensor(self):
        text = self.run_check("--only", "machine,correctness,convolutions", fault="differs", code=1)
        records = self.records()
        self.only(records, {"correctness"}, "machine,correctness,convolutions")
        self.assertIn("discriminator.encoder.input.bias", records["correctness"]["why"])
        self.assertIn("discriminator.encoder.input.bias", (self.out / "gpu.md").read_text())
        self.assertIn("not everything held: blocks: correctness", text)

    def test_other_bits_are_named(self):
        self.run_check("--only", "convolutions,sharing,profile", fault="bits", code=1)
        records = self.records()
        self.only(records, {"sharing"}, "convolutions,sharing,profile")
        self.assertIn("2 trainers: 40 other; it should be 40 same", records["sharing"]["why"])

    def test_a_run_that_fails_leaves_the_logs_of_its_processes(self):
        self.run_check("--only", "sharing,profile", fault="run fails", code=1)
        self.only(self.records(), {"sharing"}, "sharing,profile")
        with tarfile.open(self.out / "results.tar.gz") as tar:
            self.assertIn(b"what the trainer said last", tar.extractfile("sharing.log").read())

    def test_a_trainer_that_hangs_takes_its_blocks_share_and_what_it_printed_is_kept(self):
        began = time.monotonic()
        names = "machine,bench,convolutions,profile"
        self.run_check("--budget", "40", "--only", names, fault="hangs", code=1)
        self.assertLess(time.monotonic() - began, 60)
        records = self.records()
        self.only(records, {"bench"}, names)
        self.assertIn("not over after", records["bench"]["why"])
        self.assertIn("starting", records["bench"]["why"])

    def test_a_trainer_that_is_killed_is_named_with_the_signal(self):
        self.run_check("--only", "machine,bench,convolutions,profile", fault="dies", code=1)
        records = self.records()
        self.only(records, {"bench", "profile"}, "machine,bench,convolutions,profile")
        self.assertIn("ended by SIGSEGV", records["bench"]["why"])

    def test_a_variant_that_raises_hides_no_other(self):
        self.run_check("--only", "machine,pytorch,profile", fault="raises", code=1)
        records = self.records()
        self.only(records, {"pytorch"}, "machine,pytorch,profile")
        self.assertIn("RuntimeError: on purpose", records["pytorch"]["why"])
        self.assertIn("PyTorch single-backward/fp32 |", (self.out / "gpu.md").read_text())

    def test_a_file_of_the_pack_that_was_changed_or_is_missing_is_named(self):
        (self.pack / "fixtures/plain-32.safetensors").write_text("something else")
        (self.pack / "lib/libnccl_double.so").unlink()
        self.run_check("--only", "machine", code=1)
        why = self.records()["machine"]["why"]
        self.assertIn("fixtures/plain-32.safetensors was changed", why)
        self.assertIn("lib/libnccl_double.so is missing", why)

    def test_the_budget_that_is_gone_in_the_middle_is_said_of_every_block_after(self):
        text = self.run_check("--budget", "4", "--only", "machine,bench,convolutions,profile", fault="hangs", code=1)
        records = self.records()
        self.assertEqual(list(records), ["bench", "convolutions", "machine", "profile"])
        self.assertIn("no time is left", " ".join(record["why"] for record in records.values()))
        self.assertIn("bench", text[text.index("not everything held"):])

    def test_results_that_cannot_be_written_are_printed_and_no_block_is_lost(self):
        self.out.write_text("a file where the folder should be")
        text = self.run_check("--only", "machine,bench,convolutions", code=1)
        self.assertIn("cannot be written", text)
        for name in ("machine", "bench", "convolutions"):
            self.assertIn(f"PASSED {name}", text)
            self.assertIn(f'RESULTS {name}.json: {{\n "block": "{name}"', text)
        self.assertIn("| convolutions | passed |", text)

    def test_a_folder_that_holds_other_files_keeps_them_and_gets_fewer(self):
        self.out.mkdir()
        for number in range(5):
            (self.out / f"mine-{number}.txt").write_text("mine")
        (self.out / "bench.json").write_text("of an earlier check")
        self.run_check("--only", "machine,convolutions")
        files = {path.name for path in self.out.iterdir()}
        self.assertEqual(files, {"results.tar.gz", "gpu.md", *(f"mine-{number}.txt" for number in range(5))})

    def test_a_check_that_is_interrupted_says_so_and_leaves_no_process(self):
        env = os.environ | {"FAULT": "hangs"}
        process = subprocess.Popen(self.command("--only", "machine,bench,convolutions"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, env=env)
        deadline = time.monotonic() + 60
        while not (self.out / "machine.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 1, text)
        records = self.records()
        self.assertEqual(records["bench"]["why"], "the whole of it: interrupted")
        self.assertEqual(records["convolutions"]["why"], "interrupted")
        left = [entry.name for entry in pathlib.Path("/proc").iterdir() if entry.name.isdigit() and str(self.pack).encode() in cmdline(entry)]
        self.assertEqual(left, [])


def cmdline(entry):
    try:
        return (entry / "cmdline").read_bytes()
    except OSError:
        return b""


class Parts(unittest.TestCase):
    def test_a_trace_gives_launches_gaps_and_the_longest(self):
        def event(category, name, start, duration):
            return {"ph": "X", "cat": category, "name": name, "ts": start, "dur": duration}

        text = json.dumps({"traceEvents": [
            event("kernel", "a", 0.0, 10.0), event("kernel", "b", 5.0, 10.0), event("gpu_memcpy", "copy", 20.0, 5.0), event("kernel", "a", 40.0, 2.0),
            event("cpu_op", "aten::x", 0.0, 100.0), event("cpu_op", "aten::inner", 1.0, 5.0), {"ph": "M", "name": "not one"}]})
        found = traces.of_trace(text, "cuda")
        self.assertEqual((found["launches"], found["gaps"]), (4, 2))
        self.assertEqual((found["span_ms"], found["busy_ms"], found["gaps_ms"], found["longest_gap_us"]), (0.042, 0.022, 0.02, 15.0))
        self.assertEqual(found["longest"][0], {"kernel": "a", "count": 2, "ms": 0.012, "share": 0.444})
        self.assertEqual(traces.of_trace(text, "cpu")["launches"], 1)
        with self.assertRaisesRegex(ValueError, "no events of cpu_op"):
            traces.of_trace(json.dumps({"traceEvents": []}), "cpu")

    def test_ncus_table_is_read_with_its_units_and_thousands(self):
        text = '\n'.join(['==PROF== Connected', '{"variant": "alone"}', '"ID","Kernel Name","gpu__time_duration.sum","dram__bytes_read.sum","dram__bytes_write.sum"',
                          '"","","ns","byte","byte"', '"0","a<int, 1>","1,500","2,000,000,000","1"', '"1","b","500","0","0"', '==PROF== Disconnected'])
        found = traces.of_ncu(text)
        self.assertEqual((found["launches"], found["busy_ms"], found["dram_gb"]), (2, 0.002, 2.0))
        self.assertEqual(found["longest"][0], {"kernel": "a<int, 1>", "count": 1, "ms": 0.0015, "share": 0.75})
        with self.assertRaisesRegex(ValueError, "no table"):
            traces.of_ncu("==ERROR== no GPU")

    def test_the_convolutions_are_the_19_of_the_network(self):
        source = (HERE / "convolutions.py").read_text()
        names = {"torch": None}
        exec(source[source.index("def shapes("):source.index("class Convolution")], names)
        shapes = list(names["shapes"](128, 128))
        self.assertEqual(len(shapes), 19)
        self.assertEqual(len({shape[0] for shape in shapes}), 19)
        # What the paper's layer list says, for the encoder's last and the decoder's first.
        self.assertIn(("encoder.scale3.down", 512, 640, 16, 2, False), shapes)
        self.assertIn(("decoder.scale3.refine", 128, 128, 64, 2, True), shapes)

    def test_the_line_fits_and_names_the_archive(self):
        self.assertLess(len(pack.line()), 2000)
        self.assertIn("gpu-pack.tar.xz", pack.line())

    def test_a_run_path_is_emptied_and_the_program_still_runs(self):
        compiler = shutil.which("cc")
        if not compiler:
            self.skipTest("no C compiler")
        with tempfile.TemporaryDirectory() as folder:
            program, source = pathlib.Path(folder, "program"), pathlib.Path(folder, "program.c")
            source.write_text("int main(void) { return 7; }\n")
            subprocess.run([compiler, source, "-o", program, "-Wl,-rpath,/nowhere/of/mine"], check=True)
            self.assertIn(b"/nowhere/of/mine", program.read_bytes())
            pack.without_run_path(program)
            self.assertNotIn(b"/nowhere/of/mine", program.read_bytes())
            self.assertEqual(subprocess.run([program]).returncode, 7)

    def test_every_block_is_reserved_less_than_the_budget(self):
        import check
        self.assertEqual([plan.name for plan in blocks.PLANS], NAMES)
        self.assertLess(sum(plan.least for plan in blocks.PLANS), check.BUDGET)
        self.assertLess(sum(plan.least for plan in blocks.PLANS if plan.quick), check.QUICK)
        self.assertTrue(all(plan.least <= plan.bound for plan in blocks.PLANS))

    def test_what_compiles_the_same_is_compiled_once(self):
        plans = [(16, "a/bf16w+compile+graph"), (64, "a/bf16w+compile+graph"), (16, "a/bf16w+compile"), (16, "a/bf16+compile"), (16, "a/bf16"),
                 (16, "a/bf16w+compile+graph+deterministic")]
        self.assertEqual(blocks.to_compile(plans), [(16, "a/bf16+compile"), (16, "a/bf16w+compile+graph"),
                                                    (16, "a/bf16w+compile+graph+deterministic"), (64, "a/bf16w+compile+graph")])

    def test_cells_of_a_table_keep_their_column(self):
        self.assertEqual(page.table(["a"], [["x|y\nz"]])[2], "| x\\|y z |")


if __name__ == "__main__":
    unittest.main()

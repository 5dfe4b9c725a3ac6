#!/usr/bin/env python3
"""Every variant of `began_torch.py bench` that a CPU can run is the same step, whatever the words.

  python -m unittest benches/reference/test_began_torch.py            all; compiling takes minutes
  python benches/reference/test_began_torch.py Eager Command Capture  what is not compiled

The rule is step_separate in f64 on the same weights, x, z and k. What a GPU alone can run (a CUDA graph) is called here with stand-ins
for torch.cuda, which shows that it records the step once, after warm-up, and that a replay is all that a step does then.
"""
import contextlib
import io
import json
import math
import pathlib
import subprocess
import sys
import unittest
from unittest import mock

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import began_torch
from began_torch import Shape, Variant

PROGRAM = pathlib.Path(began_torch.__file__)
K = 0.5
# Of a whole gradient. A bf16 value is off by up to 2^-9 of itself; through some ten layers and a loss whose gradient is a sign,
# which flips where a residual is near zero, that comes to some percent. Leaving out k or mistaking its sign is 30% and more.
BOUNDS = {"fp32": (1e-6, 1e-5), "tf32": (1e-6, 1e-5), "bf16": (2e-3, 0.05), "bf16w": (2e-3, 0.05)}
EAGER = [f"{how}/{precision}{layout}" for how in began_torch.STEPS for precision in BOUNDS for layout in ("", "+nhwc")] + [
    "single-backward/fp32+foreach", "single-backward/bf16+nhwc+foreach", "single-backward/bf16w+nhwc+foreach",
    "single-backward/bf16w+nhwc+foreach+deterministic", "single-backward/fp32+capturable",
    "single-backward/bf16w+nhwc+foreach+graph"]
COMPILED = [
    "separate/fp32+compile", "shared-forward/fp32+nhwc+compile", "shared-forward/bf16w+compile", "single-backward/fp32+nhwc+compile",
    "single-backward/bf16+nhwc+compile", "single-backward/fp32+nhwc+compile+donate-off", "single-backward/fp32+nhwc+autotune",
    "single-backward/bf16w+nhwc+foreach+compile+deterministic+graph", "single-backward/fp32+nhwc+whole",
    "single-backward/bf16w+nhwc+foreach+whole+graph"]


def norm(tensors):
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


class Same(unittest.TestCase):
    def tearDown(self):
        began_torch.configure("single-backward", {"fp32"})

    def inputs(self, shape):
        """Weights away from zero, so that every path carries signal, and residuals away from it, so that few signs flip."""
        random = torch.Generator().manual_seed(1)
        G, D = began_torch.Decoder(*shape[:3]), began_torch.Discriminator(*shape[:3])
        weights = [torch.randn(p.shape, generator=random) * (0.3 if p.dim() == 1 else 1.2 / p[0].numel() ** 0.5)
                   for p in [*D.parameters(), *G.parameters()]]
        x = torch.rand(shape.batch, 3, shape.size, shape.size, generator=random) * 2 - 1
        return weights, x, torch.rand(shape.batch, shape.latent, generator=random) * 2 - 1

    def exact(self, shape, weights, x, z):
        G, D = began_torch.Decoder(*shape[:3]).double(), began_torch.Discriminator(*shape[:3]).double()
        pd, pg = list(D.parameters()), list(G.parameters())
        for p, value in zip(pd + pg, weights):
            p.data.copy_(value)
        real, fake, gd, gg = began_torch.step_separate(G, D, pg, pd, x.double(), z.double(), K)
        return real.item(), fake.item(), list(gd), list(gg)

    def same(self, name, shape):
        weights, x, z = self.inputs(shape)
        real, fake, *both = self.exact(shape, weights, x, z)
        variant = Variant(name, shape, "cpu")
        with torch.no_grad():
            for p, value in zip(variant.masters, weights):
                p.copy_(value)
        variant.publish()
        variant.k.fill_(K)
        variant.noise = lambda: z.to(variant.dtype)
        precision = (variant.words & set(BOUNDS)).pop()
        of_loss, of_gradient = BOUNDS[precision]
        before = [p.detach().clone() for p in variant.masters]
        m, v = ([torch.zeros_like(p) for p in before] for _ in range(2))
        k = K
        for step in range(2):
            variant.step(x)
            losses, grads = variant.losses(), [p.grad for p in variant.masters]
            if step == 0:
                self.assertLessEqual(abs(losses["L_real"] / real - 1), of_loss)
                self.assertLessEqual(abs(losses["L_fake"] / fake - 1), of_loss)
                d = len(variant.pd)
                for found, expected in zip((grads[:d], grads[d:]), both):
                    off = norm([a.double() - b for a, b in zip(found, expected)]) / norm(expected)
                    self.assertLessEqual(off, of_gradient)
            # Adam as written out, on the variant's own gradients: from there on it is f32 in every variant.
            began_torch.adam(before, grads, m, v, step + 1, began_torch.RATE)
            for found, expected in zip(variant.masters, before):
                torch.testing.assert_close(found.detach(), expected, rtol=1e-6, atol=1e-8)
            for weight, master in zip(variant.weights, variant.masters):
                self.assertTrue(torch.equal(weight.detach(), master.detach().to(variant.dtype)))
                self.assertEqual(weight.stride(), master.stride())
            k = min(max(k + began_torch.LAMBDA_K * (began_torch.GAMMA * losses["L_real"] - losses["L_fake"]), 0), 1)
            self.assertAlmostEqual(losses["k"], k, delta=1e-7)


class Eager(Same):
    def test_every_variant_is_the_same_step(self):
        for name in EAGER:
            with self.subTest(name):
                self.same(name, Shape(32, 4, 8, 2))

    def test_k_stays_within_0_and_1(self):
        variant = Variant("single-backward/fp32", Shape(16, 4, 8, 2), "cpu")
        for k, balance, expected in ((0.0, -1e6, 0.0), (1.0, 1e6, 1.0)):
            variant.k.fill_(k)
            with mock.patch.object(began_torch, "LAMBDA_K", abs(balance)), \
                    mock.patch.object(began_torch, "GAMMA", 1e3 if balance > 0 else -1e3):
                variant.step(torch.rand(2, 3, 16, 16))
            self.assertEqual(variant.losses()["k"], expected)

    def test_gradients_of_bf16_weights_lie_as_the_masters_do(self):
        # Else each tensor is copied in a launch of its own.
        variant = Variant("single-backward/bf16w+nhwc+foreach", Shape(32, 4, 8, 2), "cpu")
        variant.step(torch.rand(2, 3, 32, 32))
        for p in variant.masters:
            self.assertEqual((p.grad.stride(), p.grad.dtype), (p.stride(), torch.float32))


class Compiled(Same):
    def test_every_variant_is_the_same_step(self):
        for name in COMPILED:
            with self.subTest(name):
                self.same(name, Shape(16, 4, 8, 2))


class Capture(unittest.TestCase):
    def test_a_graph_is_recorded_once_after_warm_up_and_a_step_is_a_replay(self):
        variant = Variant("single-backward/bf16w+nhwc+foreach+graph", Shape(16, 4, 8, 2), "cpu")
        calls, work = [], variant.work
        variant.work = lambda: (calls.append("work"), work())

        @contextlib.contextmanager
        def recording(graph, stream):
            calls.append("begin")
            self.assertTrue(all(p.grad is None for p in variant.masters))
            yield
            calls.append("end")

        stand_ins = {"Stream": mock.Mock(), "current_stream": mock.Mock(), "stream": lambda side: contextlib.nullcontext(),
                     "CUDAGraph": lambda: mock.Mock(replay=lambda: calls.append("replay")), "graph": recording}
        with mock.patch.multiple(torch.cuda, **stand_ins):
            variant.capture()
        x = torch.rand(2, 3, 16, 16)
        variant.step(x)
        self.assertEqual(calls, ["work"] * 3 + ["begin", "work", "end", "replay"])
        self.assertTrue(torch.equal(variant.x, x.bfloat16()))

    def test_all_that_changes_between_replays_stays_where_it_is(self):
        variant = Variant("single-backward/bf16w+nhwc+foreach+graph", Shape(16, 4, 8, 2), "cpu")

        def places():
            state = [value for p in variant.masters for value in variant.adam.state[p].values()]
            rate = variant.adam.param_groups[0]["lr"]
            return [t.data_ptr() for t in [variant.x, variant.k, rate, *variant.masters, *variant.weights, *state]]

        variant.step(torch.rand(2, 3, 16, 16))
        before = places()
        variant.step(torch.rand(2, 3, 16, 16))
        self.assertEqual(places(), before)


class Command(unittest.TestCase):
    SHAPE = "--device cpu --size 16 --filters 4 --latent 8 --batch 2 --warmup 1 --iters 1 --rounds 1".split()

    def run_program(self, *arguments):
        return subprocess.run([sys.executable, PROGRAM, *arguments], text=True, capture_output=True)

    def bench(self, variants):
        """In this process, so that a variant can be made to fail."""
        out = io.StringIO()
        with mock.patch.object(sys, "argv", ["began_torch.py", "bench", *self.SHAPE, "--variants", variants]), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), self.assertRaises(SystemExit) as ended:
            began_torch.main()
        return ended.exception.code, [json.loads(line) for line in out.getvalue().splitlines()]

    def test_a_word_or_way_that_is_none_is_an_error_that_lists_them(self):
        for wrong in ("single-backward/fp31", "both/fp32", "single-backward", "single-backward/nhwc", "separate/fp32+bf16",
                      "separate/fp32+foreach", "shared-forward/fp32+whole", "single-backward/fp32+autotune+deterministic"):
            ended = self.run_program("bench", *self.SHAPE, "--variants", wrong)
            self.assertEqual((ended.returncode, ended.stdout), (2, ""), wrong)
            self.assertIn("single-backward and the words are fp32, tf32", ended.stderr)

    def test_a_variant_that_fails_is_a_line_and_the_others_still_run(self):
        step = Variant.step

        def fails(variant, x):
            if variant.how == "separate":
                raise ValueError("of no use\nsecond line")
            step(variant, x)

        with mock.patch.object(Variant, "step", fails):
            code, lines = self.bench("separate/fp32,single-backward/fp32")
        self.assertEqual(code, 1)
        self.assertEqual(lines[0], {"variant": "separate/fp32", "error": "ValueError: of no use"})
        self.assertGreater(lines[1]["images_per_s"], 0)

    def test_a_loss_that_is_not_finite_is_an_error(self):
        with mock.patch.object(began_torch, "GAMMA", math.nan):
            code, lines = self.bench("single-backward/fp32")
        self.assertEqual((code, lines[0]["error"].split(":")[0]), (1, "ArithmeticError"))

    def test_a_graph_is_skipped_on_a_cpu(self):
        self.assertEqual(self.bench("single-backward/bf16w+foreach+graph"),
                         (0, [{"variant": "single-backward/bf16w+foreach+graph", "skipped": "needs a GPU"}]))

    def test_a_line_says_speed_warm_up_and_losses(self):
        code, [line] = self.bench("single-backward/fp32+nhwc")
        self.assertEqual(code, 0)
        self.assertEqual(list(line), ["variant", "size", "filters", "batch", "ms_per_step", "min", "max", "images_per_s", "warmup_s",
                                      "kernels", "peak_gib", "L_real", "L_fake", "k", "device", "threads", "torch"])

    def test_the_default_variants_are_variants(self):
        for device, expected in (("cuda", began_torch.CUDA_VARIANTS), ("cpu", began_torch.CPU_VARIANTS)):
            ended = self.run_program("variants", "--device", device)
            self.assertEqual(ended.stdout.split(), expected)
            self.assertEqual([began_torch.parsed_variant(name) for name in expected], expected)


if __name__ == "__main__":
    unittest.main()

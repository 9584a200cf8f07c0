"""The local sentence transformer beside others on the same machine: onnxruntime and PyTorch, 32-bit floats.

    python3 -m venv venv && venv/bin/pip install sentence-transformers==6.2.0 onnx==1.23.2 onnxruntime==1.32.0
    venv/bin/python benches/peers/embeddings/run.py .riacho/runtime/models/all-minilm-l6-v2

Texts are token ids, as many as crates/models/examples/throughput.rs has, so no tokenizer is measured. Each figure is
the median of batches for 20 seconds, then the best one, then texts in a second of the processor.
"""

import argparse
import pathlib
import tempfile
import time

import numpy
import onnxruntime
import torch
from transformers import AutoModel

INPUTS = ["input_ids", "attention_mask", "token_type_ids"]


class Encoder(torch.nn.Module):
    """Positional arguments for the export."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *tensors):
        return self.model(**dict(zip(INPUTS, tensors))).last_hidden_state


def batch(count, tokens):
    ids = 1000 + (numpy.arange(tokens)[None] * 37 + numpy.arange(count)[:, None] * 101) % 20000
    return dict(zip(INPUTS, (ids, numpy.ones_like(ids), numpy.zeros_like(ids))))


def measure(name, threads, tokens, count, compute, seconds):
    feed = batch(count, tokens)
    compute(feed)
    start, used, times = time.perf_counter(), time.process_time(), []
    # As many texts at a time as in one batch of the example.
    rounds = 8192 // tokens // count
    while time.perf_counter() - start < seconds:
        begun = time.perf_counter()
        for _ in range(rounds):
            compute(feed)
        times.append((time.perf_counter() - begun) / rounds)
    used = time.process_time() - used
    times.sort()
    print(f"{name}, {threads} threads, {count} texts of {tokens} tokens: {count / times[len(times) // 2]:.1f} texts/s, "
          f"at best {count / times[0]:.1f}; {count * rounds * len(times) / used:.1f} in a second of the processor", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    model = AutoModel.from_pretrained(options.directory, attn_implementation="eager").eval()
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/model.onnx"
        example = tuple(torch.from_numpy(value) for value in batch(2, 16).values())
        torch.onnx.export(Encoder(model), example, path, input_names=INPUTS, output_names=["states"], dynamo=False,
                          dynamic_axes={name: {0: "texts", 1: "tokens"} for name in [*INPUTS, "states"]})
        fast = AutoModel.from_pretrained(options.directory, attn_implementation="sdpa").eval()
        for threads in options.threads:
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = threads
            session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
            torch.set_num_threads(threads)

            def by_torch(feed):
                with torch.inference_mode():
                    fast(**{name: torch.from_numpy(value) for name, value in feed.items()})

            for tokens, count in ((16, 64), (128, 8), (256, 4)):
                measure("onnxruntime", threads, tokens, count, lambda feed: session.run(None, feed), options.seconds)
                measure("PyTorch", threads, tokens, count, by_torch, options.seconds)


main()

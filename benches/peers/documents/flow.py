"""The flow of CocoIndex that is measured; run.py starts it inside the virtual environment.

It follows CocoIndex's own text embedding example. Where its documentation leaves a choice, the quickest of what was
tried is taken: the vectors are asked for a file at a time, rows have a natural key instead of generated ids, and
vectors are not memoized one by one, only files. Each of the other ways costs CocoIndex more.
"""

import argparse
import asyncio
import functools
import importlib.metadata
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import asyncpg
import cocoindex as coco
import numpy as np
import wordllama
from cocoindex.connectors import localfs, postgres
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.file import FileLike
from cocoindex.resources.schema import VectorSchema
from numpy.typing import NDArray

TABLE = "chunks"
DIMENSIONS = 256

# CocoIndex counts bytes, Riacho tokens: 256 of them, 32 of which repeat the chunk before. With these sizes 2,000
# files of the corpus give 24,611 chunks, 12.3 a file, of 233 tokens of WordLlama; Riacho made 24,592 of its own.
# In this corpus the splitter hardly makes use of the overlap: its chunks add up to 1.001 of the text, so CocoIndex
# may have a little less to embed than Riacho. No language is named: with the one for Markdown the splitter needs more
# than four times as long.
CHUNK_BYTES = 1_225
OVERLAP_BYTES = 147

# Files whose chunks are embedded in one call, and the texts of one matrix within it.
BATCH_FILES = 16
BATCH_TEXTS = 32

DATABASE = coco.ContextKey[asyncpg.Pool]("database")
SPLITTER = RecursiveSplitter()


@dataclass
class Row:
    """A chunk as it is stored."""

    filename: str
    chunk_start: int
    chunk_end: int
    text: str
    embedding: Annotated[NDArray, VectorSchema(dtype=np.dtype(np.float32), size=DIMENSIONS)]


@functools.cache
def model():
    """WordLlama with the weights of its package. Its own search misses the tokenizer there, but not in a cache."""
    package = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(dim=DIMENSIONS, cache_dir=package, disable_download=True)


# The runner is a thread that takes one batch after the other, as CocoIndex's embedders have it; without it batches run
# side by side, which on two cores is no quicker and takes more memory.
@coco.fn.as_async(batching=True, max_batch_size=BATCH_FILES, runner=coco.GPU)
def embed(files: list[list[str]]) -> list[list[NDArray]]:
    """The vectors of the chunks of several files; a caller passes one file and gets that file's."""
    texts = list(itertools.chain.from_iterable(files))
    vectors = iter(model().embed(texts, norm=True, batch_size=BATCH_TEXTS))
    return [list(itertools.islice(vectors, len(chunks))) for chunks in files]


@coco.fn(memo=True)
async def process_file(file: FileLike, table: postgres.TableTarget[Row]) -> None:
    chunks = SPLITTER.split(await file.read_text(), chunk_size=CHUNK_BYTES, chunk_overlap=OVERLAP_BYTES)
    vectors = await embed([chunk.text for chunk in chunks])
    for chunk, vector in zip(chunks, vectors, strict=True):
        table.declare_row(row=Row(str(file.file_path.path), chunk.start.char_offset, chunk.end.char_offset,
                                  chunk.text, vector))


@coco.fn
async def index_files(directory: Path, index: bool) -> None:
    schema = await postgres.TableSchema.from_class(Row, primary_key=["filename", "chunk_start"])
    table = await postgres.mount_table_target(DATABASE, TABLE, schema)
    if index:
        table.declare_vector_index(column="embedding", metric="cosine", method="hnsw")
    await coco.mount_each(process_file, localfs.walk_dir(directory, recursive=True).items(), table)


async def measure(options):
    async with asyncpg.create_pool(host=str(options.host), user=options.user, database="postgres") as pool:

        @coco.lifespan
        async def lifespan(builder):
            builder.settings.db_path = options.state
            builder.provide(DATABASE, pool)
            yield

        app = coco.App(coco.AppConfig(name="documents"), index_files, directory=options.files, index=options.index)
        model()
        # A deployment of Riacho runs before it is measured; so do CocoIndex, its model and its connections.
        async with coco.runtime():
            start = time.monotonic()
            await app.update()
            seconds = time.monotonic() - start
        peak = peak_memory_mb()
        chunks, documents = await pool.fetchrow(f"SELECT count(*), count(DISTINCT filename) FROM {TABLE}")
    # CocoIndex logs the failure of a file and goes on, and a file without text has no row.
    given = sum(path.is_file() for path in options.files.rglob("*"))
    if documents != given:
        raise SystemExit(f"documents: {documents} of {given} files have chunks")
    return {
        "peer": "cocoindex",
        "version": importlib.metadata.version("cocoindex"),
        "documents": documents,
        "chunks": chunks,
        "seconds": round(seconds, 3),
        "documents_per_s": round(documents / seconds, 1),
        "chunks_per_s": round(chunks / seconds, 1),
        "peak_memory_mb": round(peak, 1),
    }


def peak_memory_mb():
    """The largest resident set of this process so far, as riacho-bench reports it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, required=True, help="the directory to index")
    parser.add_argument("--state", type=Path, required=True, help="where CocoIndex keeps what it knows")
    parser.add_argument("--host", type=Path, required=True, help="the directory of PostgreSQL's socket")
    parser.add_argument("--user", required=True)
    parser.add_argument("--index", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(arguments()))))

"""One reader over the files of a folder, in a process of its own. Prints one JSON object.

    read.py pypdfium2|kreuzberg DIR ROUNDS [TEXTS]

The texts of the first round are kept in TEXTS, that of `x.pdf` as `x.pdf.txt`; a file without text has none there.
"""

import json
import resource
import sys
import time
from pathlib import Path


def pypdfium2(files, keep):
    """Page by page, one document after the other: PDFium has one lock, so threads bring nothing."""
    import pypdfium2 as pdfium
    pages = characters = failed = 0
    for file in files:
        try:
            document = pdfium.PdfDocument(file)
        except pdfium.PdfiumError:
            failed += 1
            continue
        texts = []
        for page in document:
            text = page.get_textpage()
            texts.append(text.get_text_range())
            characters += len(texts[-1])
            pages += 1
            text.close()
            page.close()
        document.close()
        keep(file, "\n".join(texts))
    return pages, characters, failed


def kreuzberg(files, keep):
    """Its batch call, with recognition of text off, as it chooses to spread the work."""
    from kreuzberg import ExtractionConfig, batch_extract_files_sync
    config = ExtractionConfig(use_cache=False, disable_ocr=True)
    results = batch_extract_files_sync([str(file) for file in files], config=config)
    characters = failed = 0
    for file, result in zip(files, results, strict=True):
        error = (result.metadata or {}).get("error")
        failed += bool(error)
        if not error:
            characters += len(result.content)
            keep(file, result.content)
    return None, characters, failed


def main():
    name, folder, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    texts = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    files = sorted(path for path in folder.rglob("*" if texts and name == "kreuzberg" else "*.pdf") if path.is_file())
    reader = {"pypdfium2": pypdfium2, "kreuzberg": kreuzberg}[name]
    write = lambda file, text: (texts / f"{file.name}.txt").write_text(text, encoding="utf-8")
    seconds = []
    for number in range(rounds):
        keep = write if texts and number == 0 else lambda file, text: None
        begun = time.perf_counter()
        pages, characters, failed = reader(files, keep)
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({
        "reader": name, "files": len(files), "pages": pages, "characters": characters, "failed": failed,
        "seconds": [round(one, 3) for one in seconds],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()

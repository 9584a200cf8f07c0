"""One reader over the files of a folder, in a process of its own. Prints one JSON object.

    read.py pypdfium2|kreuzberg DIR ROUNDS
"""

import json
import resource
import sys
import time
from pathlib import Path


def pypdfium2(files):
    """Page by page, one document after the other: PDFium has one lock, so threads bring nothing."""
    import pypdfium2 as pdfium
    pages = characters = failed = 0
    for file in files:
        try:
            document = pdfium.PdfDocument(file)
        except pdfium.PdfiumError:
            failed += 1
            continue
        for page in document:
            text = page.get_textpage()
            characters += len(text.get_text_range())
            pages += 1
            text.close()
            page.close()
        document.close()
    return pages, characters, failed


def kreuzberg(files):
    """Its batch call, with recognition of text off, as it chooses to spread the work."""
    from kreuzberg import ExtractionConfig, batch_extract_files_sync
    config = ExtractionConfig(use_cache=False, disable_ocr=True)
    results = batch_extract_files_sync([str(file) for file in files], config=config)
    characters = failed = 0
    for result in results:
        error = (result.metadata or {}).get("error")
        failed += bool(error)
        characters += 0 if error else len(result.content)
    return None, characters, failed


def main():
    name, folder, rounds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    files = sorted(path for path in folder.rglob("*.pdf") if path.is_file())
    reader = {"pypdfium2": pypdfium2, "kreuzberg": kreuzberg}[name]
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        pages, characters, failed = reader(files)
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({
        "reader": name, "files": len(files), "pages": pages, "characters": characters, "failed": failed,
        "seconds": [round(one, 3) for one in seconds],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()

"""Writes the documents and what each of them says.

    make.py DIR TRUTHS DOCUMENTS

DOCUMENTS of each layout and format, in turn Portuguese and English. The truth of `x.pdf` is `TRUTHS/x.pdf.txt`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from known import formats, pdf  # noqa: E402


def main():
    files, truths, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    writers = {f"pdf-{layout.__name__}.{{}}.pdf": layout for layout in pdf.LAYOUTS}
    writers |= {f"{name}.{{}}.{name}": write for name, write in formats.FORMATS.items()}
    for pattern, write in writers.items():
        for number in range(count):
            language = ("pt", "en")[number % 2]
            file = files / pattern.format(f"{language}{number:02}")
            truth = write(file, language, number)
            (truths / f"{file.name}.txt").write_text(truth, encoding="utf-8")


if __name__ == "__main__":
    main()

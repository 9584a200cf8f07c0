"""The other formats: office files, OpenDocument, EPUB, mail, web pages and tables. Each function writes one file and returns its truth.

Headers and footers are parts of their own there, beside the running text, so the truth has none.
"""

import csv
import io
from email.message import EmailMessage
from html import escape

from .texts import Source


def docx(file, language, seed):
    import docx as writer
    source = Source(language, seed)
    document = source.document()
    made = writer.Document()
    made.core_properties.title = document.title
    made.sections[0].header.paragraphs[0].text = source.parts["head"]
    made.sections[0].footer.paragraphs[0].text = source.parts["foot"]
    styles = {"bullets": "List Bullet", "numbers": "List Number"}
    for block in document.blocks:
        if block.kind == "heading":
            made.add_heading(block.text, block.level)
        elif block.kind == "text":
            # Runs end within words too, as editors leave them.
            words, paragraph = block.text, made.add_paragraph()
            for start in range(0, len(words), 37):
                run = paragraph.add_run(words[start:start + 37])
                run.bold, run.italic = start % 5 == 1, start % 3 == 2
        elif block.kind == "table":
            rows, columns = len(block.items), len(block.items[0])
            table = made.add_table(rows, columns)
            for row, texts in enumerate(block.items):
                for column, text in enumerate(texts):
                    table.cell(row, column).text = text
        else:
            for item in block.items:
                made.add_paragraph(item, styles[block.kind])
    made.save(file)
    # Word goes on counting from one list of this style to the next.
    count, lines = 0, []
    for block in document.blocks:
        for line in block.lines():
            if block.kind == "numbers":
                count += 1
                line = f"{count}. {line.split('. ', 1)[1]}"
            lines.append(line)
    return "\n".join(lines)


def pptx(file, language, seed):
    import pptx as writer
    from pptx.util import Inches
    source = Source(language, seed)
    made = writer.Presentation()
    truth = []
    for number in range(6):
        heading, bullets, table = source.heading(), source.bullets(), source.table(4)
        slide = made.slides.add_slide(made.slide_layouts[1 if number % 2 else 5])
        slide.shapes.title.text = heading.text
        truth.append(heading.text)
        if number % 2:
            frame = slide.placeholders[1].text_frame
            frame.text = bullets.items[0]
            for item in bullets.items[1:]:
                frame.add_paragraph().text = item
            truth += bullets.items
        else:
            shape = slide.shapes.add_table(len(table.items), 4, Inches(1), Inches(2), Inches(8), Inches(3))
            for row, texts in enumerate(table.items):
                for column, text in enumerate(texts):
                    shape.table.cell(row, column).text = text
            truth += table.lines()
    made.save(file)
    return "\n".join(truth)


def sheets(language, seed):
    """Two sheets of texts and numbers; what is shown has a point, since no format is set."""
    source = Source(language, seed)
    def rows(count):
        for _ in range(count):
            yield [source.one("places"), source.random.randint(1, 5000), source.random.randint(1, 9999) / 4, source.one("notes"), source.sentence()]
    header = [*source.parts["columns"], "Σ"]
    return {"A": [header, *rows(40)], "B": [header, *rows(25)]}


def shown(value):
    """As a program shows a number without a format: 808, 13.25."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def sheets_truth(content, show=shown):
    """The names of the sheets stand above them."""
    lines = []
    for name, rows in content.items():
        lines += [name, *(" ".join(map(show, row)) for row in rows)]
    return "\n".join(lines)


def xlsx(file, language, seed):
    import openpyxl
    made = openpyxl.Workbook()
    made.remove(made.active)
    content = sheets(language, seed)
    for name, rows in content.items():
        sheet = made.create_sheet(name)
        for row in rows:
            sheet.append(row)
    made.save(file)
    return sheets_truth(content)


def xls(file, language, seed):
    import xlwt
    made = xlwt.Workbook()
    content = sheets(language, seed)
    for name, rows in content.items():
        sheet = made.add_sheet(name)
        for at, row in enumerate(rows):
            for column, value in enumerate(row):
                sheet.write(at, column, value)
    made.save(str(file))
    return sheets_truth(content)


def ods(file, language, seed):
    import odfdo
    made = odfdo.Document("spreadsheet")
    made.body.clear()
    content = sheets(language, seed)
    for name, rows in content.items():
        table = odfdo.Table(name)
        for row in rows:
            table.append_row(odfdo.Row())
            for column, value in enumerate(row):
                table.set_value((column, table.height - 1), value)
        made.body.append(table)
    made.save(str(file))
    # The writer stores what is shown beside each value, and it stores 808.0.
    return sheets_truth(content, str)


def odt(file, language, seed):
    import odfdo
    document = Source(language, seed).document()
    made = odfdo.Document("text")
    made.body.clear()
    for block in document.blocks:
        if block.kind == "heading":
            made.body.append(odfdo.Header(block.level, block.text))
        elif block.kind == "text":
            made.body.append(odfdo.Paragraph(block.text))
        elif block.kind == "table":
            table = odfdo.Table("T", width=len(block.items[0]), height=len(block.items))
            table.set_values(block.items)
            made.body.append(table)
        else:
            # Numbers come from styles there, so numbered items are written as what they show.
            made.body.append(odfdo.List(block.lines()))
    made.save(str(file))
    return document.truth()


def marked_up(document):
    parts = []
    for block in document.blocks:
        text = escape(block.text)
        if block.kind == "heading":
            parts.append(f"<h{block.level}>{text}</h{block.level}>")
        elif block.kind == "text":
            first, rest = text.split(" ", 1)
            parts.append(f"<p><b>{first}</b> {rest}</p>")
        elif block.kind == "table":
            cell = lambda tag, row: "".join(f"<{tag}>{escape(text)}</{tag}>" for text in row)
            head, *rows = block.items
            body = "".join(f"<tr>{cell('td', row)}</tr>" for row in rows)
            parts.append(f"<table><thead><tr>{cell('th', head)}</tr></thead><tbody>{body}</tbody></table>")
        else:
            tag = "ul" if block.kind == "bullets" else "ol"
            parts.append(f"<{tag}>" + "".join(f"<li>{escape(item)}</li>" for item in block.items) + f"</{tag}>")
    return "\n".join(parts)


def html(file, language, seed):
    document = Source(language, seed).document()
    file.write_text(f'<!DOCTYPE html>\n<html lang="{language}"><head><meta charset="utf-8"><title>{document.title}</title>'
                    "<style>p { margin: 0 }</style><script>var hidden = 1</script></head>\n"
                    f"<body>{marked_up(document)}</body></html>", encoding="utf-8")
    return document.truth()


def epub(file, language, seed):
    from ebooklib import epub as writer
    made = writer.EpubBook()
    made.set_identifier(f"{language}-{seed}")
    made.set_language(language)
    truth, chapters = [], []
    for number in range(3):
        document = Source(language, f"{seed} {number}").document(sections=3)
        chapter = writer.EpubHtml(title=document.title, file_name=f"c{number}.xhtml", lang=language)
        chapter.content = marked_up(document)
        made.add_item(chapter)
        chapters.append(chapter)
        truth.append(document.truth())
    made.set_title(document.title)
    made.toc, made.spine = chapters, chapters
    made.add_item(writer.EpubNcx())
    writer.write_epub(str(file), made)
    return "\n".join(truth)


def rtf(file, language, seed):
    from PyRTF.Elements import Document
    from PyRTF.Renderer import Renderer
    from PyRTF.document.paragraph import Paragraph
    from PyRTF.document.section import Section
    document = Source(language, seed).document(lists=False, tables=False)
    made, section = Document(), Section()
    made.Sections.append(section)
    for block in document.blocks:
        style = made.StyleSheet.ParagraphStyles.Heading1 if block.kind == "heading" else made.StyleSheet.ParagraphStyles.Normal
        section.append(Paragraph(style, block.text))
    written = io.StringIO()
    Renderer().Write(made, written)
    file.write_text(written.getvalue(), encoding="cp1252", errors="strict")
    return document.truth()


def eml(file, language, seed):
    """A message of text with a page beside it, in the encodings that the standard library chooses. The truth is the subject and the text."""
    document = Source(language, seed).document(lists=False, tables=False)
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "rita@example.org", "office@example.org", document.title
    message["Date"] = "Fri, 14 Mar 2025 06:30:00 +0000"
    document.blocks = document.blocks[1:]
    message.set_content("\n\n".join(block.text for block in document.blocks))
    message.add_alternative(f"<html><body>{marked_up(document)}</body></html>", subtype="html")
    file.write_bytes(message.as_bytes())
    return f"{document.title}\n{document.truth()}"


def csv_table(file, language, seed):
    rows = sheets(language, seed)["A"]
    written = io.StringIO()
    csv.writer(written, delimiter=";" if language == "pt" else ",").writerows([[shown(value) for value in row] for row in rows])
    file.write_bytes(written.getvalue().encode("utf-8"))
    return "\n".join(" ".join(map(shown, row)) for row in rows)


FORMATS = {"docx": docx, "pptx": pptx, "xlsx": xlsx, "xls": xls, "ods": ods, "odt": odt, "html": html, "epub": epub, "rtf": rtf, "eml": eml,
           "csv": csv_table}

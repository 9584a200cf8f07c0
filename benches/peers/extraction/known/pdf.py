"""PDF files in many layouts by three writers: typst, reportlab and fpdf2. Each function writes one file and returns its truth."""

from pathlib import Path

from .texts import CYRILLIC, GREEK, Block, Source


# --- typst: fonts of its own as subsets, ligatures, words broken by the language's rules --------------------------


def typst_text(text):
    """A text as a string of typst, so that nothing in it is a mark."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'#text("{quoted}")'


def typst_block(block):
    if block.kind == "heading":
        return f"#heading(level: {block.level})[{typst_text(block.text)}]"
    if block.kind == "page":
        return "#pagebreak()"
    if block.kind in ("bullets", "numbers"):
        call = "list" if block.kind == "bullets" else "enum"
        return f"#{call}({', '.join(f'[{typst_text(item)}]' for item in block.items)})"
    if block.kind == "table":
        cells = [f"[{typst_text(cell)}]" for row in block.items for cell in row]
        return f"#table(columns: {len(block.items[0])}, {', '.join(cells)})"
    return typst_text(block.text)


def typst(file, document, settings):
    import typst as compiler
    source = "\n\n".join([settings, *map(typst_block, document.blocks)])
    page = f'#set text(lang: "{document.language}", hyphenate: auto)\n#set document(title: "{document.title}")\n'
    file.write_bytes(compiler.compile((page + source).encode()))


def book(file, language, seed):
    """One column, justified, words broken, ligatures, a serif face; headings, lists and tables; flows over pages."""
    document = Source(language, seed).document(sections=7)
    typst(file, document, '#set page(paper: "a5")\n#set text(font: "Libertinus Serif", size: 10pt)\n'
          "#set par(justify: true, first-line-indent: 1em, spacing: 0.65em)")
    return document.truth()


def article(file, language, seed):
    """Two columns, justified, narrow, so that many words are broken; another face; no tables."""
    document = Source(language, seed).document(sections=8, tables=False)
    typst(file, document, '#set page(paper: "a4", columns: 2)\n#set text(font: "New Computer Modern", size: 9pt)\n'
          "#set par(justify: true)")
    return document.truth()


def three_columns(file, language, seed):
    """Three narrow columns, justified, paragraphs only marked by an indent."""
    document = Source(language, seed).document(sections=8, lists=False, tables=False)
    typst(file, document, '#set page(paper: "a4", columns: 3, margin: 1.5cm)\n#set columns(gutter: 8pt)\n'
          '#set text(font: "Libertinus Serif", size: 8.5pt)\n'
          "#set par(justify: true, first-line-indent: 1em, spacing: 0.65em)")
    return document.truth()


def furniture(file, language, seed):
    """A header and a footer with the page's number on each page; each section is a page. The truth holds both as printed."""
    source = Source(language, seed)
    document = source.document(sections=5, paged=True)
    head, foot = source.parts["head"], source.parts["foot"]
    typst(file, document, f'#set page(paper: "a4", header: [{typst_text(head)} #h(1fr) {source.parts["page"]} '
          f'#context counter(page).display()], footer: align(center)[{typst_text(foot)}])\n'
          '#set text(font: "Libertinus Serif", size: 10pt)')
    return document.printed(lambda number: f"{head} {source.parts['page']} {number}", lambda _: foot)


def faces(file, language, seed):
    """Several faces, bold, italic, raised marks and colours within paragraphs; Greek and Cyrillic."""
    source = Source(language, seed)
    document = source.document(sections=3, tables=False)
    others = [Block("text", text) for text in (GREEK, source.sentence(), CYRILLIC, source.sentence())]
    document.blocks[2:2] = others
    shown = "\n\n".join([
        '#set page(paper: "a4")\n#set text(font: "Libertinus Serif", size: 11pt)\n#set par(justify: true)',
        '#show regex("\\b[A-ZÀ-Ý][\\w-]+\\b"): it => strong(it)',
        '#show regex("\\d[\\d.,:]*"): it => text(font: "DejaVu Sans Mono", size: 9pt, it)',
        '#show regex("“[^”]+”"): it => emph(it)'])
    typst(file, document, shown)
    return document.truth()


# --- reportlab: the fonts that every reader has, and TrueType subsets -----------------------------------------------


def reportlab_flow(document, face, bold, size, align, break_words):
    from reportlab.lib.styles import ParagraphStyle
    from reportlab.platypus import ListFlowable, ListItem, PageBreak, Paragraph, Spacer, Table
    from xml.sax.saxutils import escape
    lang = {"pt": "pt_PT", "en": "en_US"}[document.language] if break_words else None
    body = ParagraphStyle("body", fontName=face, fontSize=size, leading=size * 1.25, alignment=align, spaceAfter=size * 0.6,
                          hyphenationLang=lang, hyphenationMinWordLength=6)
    cell = ParagraphStyle("cell", fontName=face, fontSize=size, leading=size * 1.2)
    head = {level: ParagraphStyle(f"head{level}", fontName=bold, fontSize=size * (2 - 0.3 * level), leading=size * 2, spaceBefore=size)
            for level in (1, 2)}
    made = lambda text, style: Paragraph(escape(text), style)
    for block in document.blocks:
        if block.kind == "heading":
            yield made(block.text, head[block.level])
        elif block.kind == "text":
            yield made(block.text, body)
        elif block.kind == "page":
            yield PageBreak()
        elif block.kind == "table":
            yield Table([[made(text, cell) for text in row] for row in block.items], hAlign="LEFT")
            yield Spacer(1, size)
        else:
            kind = {"bullets": {"bulletType": "bullet", "start": "•"}, "numbers": {"bulletType": "1", "bulletFormat": "%s."}}[block.kind]
            # A bullet's height follows the list's own font, not the text's.
            yield ListFlowable([ListItem(made(item, cell)) for item in block.items], bulletFontName=face, bulletFontSize=size, **kind)
            yield Spacer(1, size)


def reportlab(file, document, columns, **looks):
    from reportlab.lib.pagesizes import A4
    from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate
    margin, gap = 50, 14
    width = (A4[0] - 2 * margin - gap * (columns - 1)) / columns
    frames = [Frame(margin + i * (width + gap), margin, width, A4[1] - 2 * margin, leftPadding=0, rightPadding=0) for i in range(columns)]
    template = BaseDocTemplate(str(file), pagesize=A4, title=document.title, invariant=1)
    template.addPageTemplates(PageTemplate(frames=frames))
    template.build(list(reportlab_flow(document, **looks)))
    return document.truth()


def vera():
    """The TrueType faces that come with reportlab."""
    import reportlab as package
    folder = Path(package.__file__).parent / "fonts"
    return {"Vera": folder / "Vera.ttf", "VeraBold": folder / "VeraBd.ttf"}


def letter(file, language, seed):
    """One column of Times, which is not embedded, justified, words broken; lists and tables."""
    document = Source(language, seed).document(sections=5)
    return reportlab(file, document, 1, face="Times-Roman", bold="Times-Bold", size=11, align=4, break_words=True)


def bulletin(file, language, seed):
    """Two columns of an embedded TrueType subset, ragged, no word broken; lists and tables."""
    from reportlab.pdfbase import pdfmetrics, ttfonts
    for name, font in vera().items():
        pdfmetrics.registerFont(ttfonts.TTFont(name, font))
    document = Source(language, seed).document(sections=6)
    return reportlab(file, document, 2, face="Vera", bold="VeraBold", size=8, align=0, break_words=False)


def canvas_lines(document, face, size, width):
    """The document's lines, wrapped to a width, each with its kind."""
    from reportlab.lib.utils import simpleSplit
    for block in document.blocks:
        for line in block.lines():
            yield from ((block.kind, part) for part in simpleSplit(line, face, size, width))
        yield ("gap", "")


def placed(file, language, seed):
    """Each word is placed on its own and no space is written, as TeX does; headings have wide spaces between their letters."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfbase.pdfmetrics import stringWidth
    from reportlab.pdfgen.canvas import Canvas
    document = Source(language, seed).document(sections=4, tables=False)
    canvas, face, size, y = Canvas(str(file), pagesize=A4, invariant=1), "Helvetica", 10, 780
    for kind, line in canvas_lines(document, face, size, 440):
        if y < 60:
            canvas.showPage()
            y = 780
        x = 70
        spread = 1.2 if kind == "heading" else 0
        for word in line.split():
            canvas.setFont("Helvetica-Bold" if kind == "heading" else face, size)
            canvas.drawString(x, y, word, charSpace=spread)
            x += stringWidth(word, canvas._fontname, size) + spread * len(word) + size * 0.3
        y -= size * 1.3
    canvas.save()
    return document.truth()


def woven(file, language, seed):
    """Two columns that are written row by row, left and right in turn, as some converters do: only the places tell the columns."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas
    document = Source(language, seed).document(sections=5, lists=False, tables=False)
    canvas, face, size, rows = Canvas(str(file), pagesize=A4, invariant=1), "Times-Roman", 10, 55
    lines = [line for _, line in canvas_lines(document, face, size, 235)]
    for start in range(0, len(lines), 2 * rows):
        left, right = lines[start:start + rows], lines[start + rows:start + 2 * rows]
        for row in range(len(left)):
            canvas.setFont(face, size)
            canvas.drawString(50, 780 - row * size * 1.25, left[row])
            if row < len(right):
                canvas.drawString(310, 780 - row * size * 1.25, right[row])
        canvas.showPage()
    canvas.save()
    return document.truth()


# --- fpdf2 ----------------------------------------------------------------------------------------------------------


def fpdf_pages(document, size, columns, align):
    from fpdf import FPDF
    pdf = FPDF()
    for style, font in zip(("", "B"), vera().values()):
        pdf.add_font("Vera", style, font)
    pdf.set_title(document.title)
    pdf.add_page()
    pdf.set_font("Vera", size=size)
    if columns > 1:
        with pdf.text_columns(ncols=columns, gutter=6, text_align=align, line_height=1.2) as flow:
            for block in document.blocks:
                for line in block.lines():
                    pdf.set_font("Vera", "B" if block.kind == "heading" else "", size)
                    with flow.paragraph(bottom_margin=2) as paragraph:
                        paragraph.write(line)
        return pdf
    for block in document.blocks:
        pdf.set_font("Vera", "B" if block.kind == "heading" else "", size)
        if block.kind == "table":
            with pdf.table(line_height=size * 0.5, align="LEFT", first_row_as_headings=True, repeat_headings=0) as table:
                for row in block.items:
                    table.row(row)
            pdf.ln(3)
            continue
        for line in block.lines():
            mark = "• " if block.kind == "bullets" else ""
            pdf.multi_cell(0, size * 0.5, mark + line, align=align, new_x="LMARGIN", new_y="NEXT")
        pdf.ln(3)
    return pdf


def memo(file, language, seed):
    """One column, ragged, headings only by weight; lists and tables with rules."""
    document = Source(language, seed).document(sections=5)
    fpdf_pages(document, 10, 1, "L").output(str(file))
    return document.truth()


def gazette(file, language, seed):
    """Two columns, justified by wider spaces, no word broken."""
    document = Source(language, seed).document(sections=6, lists=False, tables=False)
    fpdf_pages(document, 9, 2, "J").output(str(file))
    return document.truth()


LAYOUTS = [book, article, three_columns, furniture, faces, letter, bulletin, placed, woven, memo, gazette]

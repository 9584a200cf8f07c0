"""Source texts of the project's own making, in Portuguese and English, and what a document is here: blocks in reading order.

The sentences are put together from the parts below by a seed, so that each document has its own and every run the same.
They hold what makes extraction hard: accents, letters that fonts draw as one (fi, ffl), words with hyphens of their own, long
words to break, quotation marks, dashes, numbers, abbreviations.
"""

import random
from dataclasses import dataclass, field

PARTS = {
    "pt": {
        "who": ["A comissão de águas", "O engenheiro-chefe", "A vice-presidente", "O técnico de plantão", "A equipe de Rio-Grandense",
                "O fiscal da bacia", "Cada município ribeirinho", "A Sr.ª Conceição", "O ex-diretor", "Nenhum dos vinte e três observadores"],
        "did": ["verificou", "registrou com atenção", "modificou", "não confirmou", "classificou como insuficientes",
                "identificou", "descreveu pormenorizadamente", "reclassificou", "pôs em dúvida", "fotografou"],
        "what": ["as medições do afluente", "os gráficos de vazão", "a fixação da régua linimétrica", "o nível do reservatório",
                 "a eficiência das comportas", "as infiltrações junto à fundação", "os coeficientes de rugosidade", "o guarda-corpo da ponte",
                 "o fluxograma das operações", "a responsabilidade interinstitucional"],
        "when": ["na sexta-feira", "às 6h30", "durante a cheia de 1983", "em 14 de março", "antes do amanhecer", "há três décadas",
                 "no início da estação chuvosa", "entre julho e setembro", "ao fim do expediente", "já na segunda-feira"],
        "tail": ["porque o sensor havia falhado", "embora o relatório dissesse “tudo em ordem”", "com erro inferior a 2,5%",
                 "e anotou 1.204 m³/s na última página", "apesar da manutenção — sempre adiada — das bombas",
                 "segundo o artigo 7.º do regulamento", "o que surpreendeu até os mais céticos", "sem que ninguém o pedisse",
                 "como se fosse a coisa mais difícil do mundo", "pois a água não espera por ofícios"],
        "title": ["Medições e métodos", "Da confluência à foz", "Manutenção das comportas", "Análise das séries históricas",
                  "Fiscalização e responsabilidade", "Situações de emergência", "Considerações finais", "Características da bacia"],
        "item": ["conferir a régua e a bússola", "avisar a prefeitura", "fixar o flutuador", "desligar a bomba nº 2", "trocar o óleo do gerador",
                 "preencher a ficha de inspeção", "medir a temperatura da água", "recolher as amostras"],
        "columns": ["Estação", "Vazão média", "Nível", "Observações"],
        "places": ["São João", "Poço Fundo", "Três Irmãs", "Ribeirão do Meio", "Açude Novo", "Conceição", "Baía Formosa", "Lagoa d’Água"],
        "notes": ["sem alterações", "régua refixada", "leitura difícil", "enchente rápida", "dados insuficientes", "em manutenção"],
        "head": "Relatório da Bacia do Rio Fluído", "foot": "Uso interno da comissão", "page": "Página",
    },
    "en": {
        "who": ["The office of rivers", "The chief engineer", "A well-known surveyor", "The night-shift operator", "The committee's first officer",
                "Each of the five affiliates", "The vice-chairwoman", "Mr. Ashfield", "A specialist from the north-east", "None of the twenty-three observers"],
        "did": ["verified", "carefully recorded", "modified", "could not confirm", "classified as insufficient", "identified",
                "described at considerable length", "re-examined", "questioned", "photographed"],
        "what": ["the measurements of the affluent", "the figures for the flow", "the fixing of the staff gauge", "the level of the reservoir",
                 "the efficiency of the floodgates", "the infiltration beneath the foundation", "the coefficients of roughness",
                 "the railing of the footbridge", "the workflow of the refinery", "the interdepartmental responsibilities"],
        "when": ["on Friday", "at 6:30 a.m.", "during the flood of 1983", "on 14 March", "before daybreak", "three decades ago",
                 "at the beginning of the rainy season", "between July and September", "after the shift had finished", "as early as Monday"],
        "tail": ["because the sensor had failed", "although the report said “all is fine”", "with an error below 2.5%",
                 "and wrote 1,204 m³/s on the last page", "despite the maintenance – always put off – of the pumps",
                 "under article 7 of the regulations", "which baffled even the sceptics", "without anybody's asking for it",
                 "as if it were the most difficult thing in the world", "since water doesn’t wait for official letters"],
        "title": ["Measurements and methods", "From the confluence to the sea", "Maintenance of the floodgates", "Analysis of historical series",
                  "Inspection and responsibility", "Emergency situations", "Final considerations", "Characteristics of the basin"],
        "item": ["check the gauge and the compass", "notify the town hall", "fix the float", "switch off pump no. 2", "change the oil of the generator",
                 "fill in the inspection sheet", "take the temperature of the water", "collect the samples"],
        "columns": ["Station", "Mean flow", "Level", "Remarks"],
        "places": ["Ashfield", "Deep Well", "Three Sisters", "Middle Brook", "New Reservoir", "Saint Mary’s", "Fairhaven", "Oxbow Flats"],
        "notes": ["no changes", "gauge refitted", "difficult to read", "flash flood", "insufficient data", "under maintenance"],
        "head": "Report on the Fluid River Basin", "foot": "For internal use of the committee", "page": "Page",
    },
}

# Other scripts in the same document.
GREEK = "Η στάθμη του ποταμού μετριέται κάθε πρωί από τον παρατηρητή, ο οποίος σημειώνει τις τιμές στο βιβλίο του σταθμού."
CYRILLIC = "Уровень воды в реке измеряется каждое утро наблюдателем, который записывает значения в журнал станции."


@dataclass
class Block:
    """`kind` is heading, text, bullets, numbers, table or page (the next begins there)."""
    kind: str
    text: str = ""
    level: int = 0
    items: list = field(default_factory=list)

    def lines(self):
        """What is printed, without marks of lists: those of numbered lists are printed numbers."""
        if self.kind == "numbers":
            return [f"{number}. {item}" for number, item in enumerate(self.items, 1)]
        if self.kind == "table":
            return [" ".join(row) for row in self.items]
        return self.items if self.kind == "bullets" else [self.text]


@dataclass
class Document:
    language: str
    title: str
    blocks: list

    def truth(self):
        return "\n".join(line for block in self.blocks if block.kind != "page" for line in block.lines())

    def printed(self, header, footer):
        """With a header and a footer on each page; pages end at the blocks of kind page."""
        pages = [[]]
        for block in self.blocks:
            pages.append([]) if block.kind == "page" else pages[-1].extend(block.lines())
        framed = [[header(number), *page, footer(number)] for number, page in enumerate(pages, 1)]
        return "\n".join(line for page in framed for line in page)


class Source:
    """Makes the blocks of a document."""

    def __init__(self, language, seed):
        self.language = language
        self.parts = PARTS[language]
        self.random = random.Random(f"{language} {seed}")

    def one(self, part):
        return self.random.choice(self.parts[part])

    def sentence(self):
        parts = [self.one("who"), self.one("did"), self.one("what")]
        if self.random.random() < 0.7:
            parts.append(self.one("when"))
        sentence = " ".join(parts)
        return f"{sentence}, {self.one('tail')}." if self.random.random() < 0.7 else f"{sentence}."

    def text(self, fewest=3, most=7):
        return Block("text", " ".join(self.sentence() for _ in range(self.random.randint(fewest, most))))

    def heading(self, level=2, number=""):
        return Block("heading", f"{number} {self.one('title')}".strip(), level)

    def bullets(self, kind="bullets"):
        return Block(kind, items=self.random.sample(self.parts["item"], self.random.randint(3, 6)))

    def table(self, rows=6):
        def row(place):
            decimal = "," if self.language == "pt" else "."
            flow = f"{self.random.randint(10, 999)}{decimal}{self.random.randint(0, 9)}"
            return [place, flow, str(self.random.randint(1, 40)), self.one("notes")]
        return Block("table", items=[self.parts["columns"], *map(row, self.random.sample(self.parts["places"], rows))])

    def document(self, sections=5, lists=True, tables=True, paged=False):
        """A title and sections, each with a heading, paragraphs, and in turn a list or a table."""
        title = self.parts["head"]
        blocks = [Block("heading", title, 1)]
        for number in range(1, sections + 1):
            if paged and number > 1:
                blocks.append(Block("page"))
            blocks.append(self.heading(2, f"{number}." if number % 2 else ""))
            blocks += [self.text() for _ in range(self.random.randint(2, 4))]
            extras = [self.bullets()] * lists + [self.bullets("numbers")] * lists + [self.table()] * tables
            if extras:
                blocks += [extras[number % len(extras)], self.text(1, 3)]
        return Document(self.language, title, blocks)

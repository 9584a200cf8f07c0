"""Writes transformer.json and the small models beside it: what the Python package sentence-transformers says.

    python -m venv venv && venv/bin/pip install sentence-transformers==6.2.0
    venv/bin/python crates/models/tests/golden/transformer.py .riacho/runtime/models/all-minilm-l6-v2

The small models have random weights. They stand for what all-MiniLM-L6-v2 is not: pooling by the first token, prefixes,
the tokenizer and the positions of XLM-RoBERTa, weights of 16 bits, and weights under the names of the first years.
Vectors are 16-bit floats in base64; the package computes with 32 bits.
"""

import base64
import json
import pathlib
import shutil
import sys
import tempfile

import numpy
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

HERE = pathlib.Path(__file__).parent

# A text, or a text and how often it is repeated.
TEXTS = [
    "a",
    "?",
    "river",
    "How deep is the river at the lock?",
    "Streams carry events from stage to stage until a document can be searched.",
    "A nota fiscal vence em trinta dias, e o riacho leva as águas até o rio.",
    "El río crece en primavera y la compuerta se cierra a las seis.",
    "Der Bach führt im Frühjahr Hochwasser; die Schleuse öffnet um sieben Uhr.",
    "Le ruisseau traverse la vallée avant de rejoindre la rivière près du moulin.",
    "Il torrente scende dalla montagna, e il livello si misura ogni mattina.",
    "川は山から海へ流れます。請求書の支払期限は三十日後です。",
    "你好世界，河流的水位每天早晨测量一次。",
    "강은 산에서 바다로 흐른다. 청구서는 삼십 일 후에 만기가 된다.",
    "Привет мир: ручей впадает в реку у старой мельницы.",
    "مرحبا بالعالم، يقاس مستوى النهر كل صباح.",
    "नदी का जल स्तर हर सुबह मापा जाता है।",
    "Größe, naïve, Ångström, Čeština, İstanbul, œuvre, ﬁnance, Ｆｕｌｌ",
    "emoji 🏞️🌊 and a rare sign 𝕽, a control \u0007, a no-break\u00a0space and a soft\u00adhyphen",
    "  leading,   inner    and trailing spaces \t\r\n ",
    "# Heading\n\nFirst line\nsecond line\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "fn main() { let x: Vec<u8> = vec![0; 1 << 20]; println!(\"{}\", x.len()); }",
    "https://example.org/a/very/long/path?with=query&and=0123456789abcdef0123456789abcdef#fragment",
    "a literal [SEP] and [MASK] and [PAD] of the tokenizer, and <s> and </s> of another",
    "x" * 120,
    ["The quick brown fox jumps over the lazy dog. ", 10],
    ["The gauge stands at the lock. ", 36],
    ["word ", 253],
    ["word ", 254],
    ["word ", 255],
    ["The water level is measured every morning at six. ", 60],
    ["水位は毎朝測定されます。", 60],
]

# What the small models are asked for, besides.
SMALL = ["river", "the river and the lock", ["river lock ", 30], "unknown ✶ signs", "", " the  lock "]

WORDS = ["the", "river", "and", "lock", "query", "passage", ":", "a", "b", "##s", "##er", "is", "deep"]


def text_of(entry):
    return entry if isinstance(entry, str) else entry[0] * entry[1]


def encode(model, kind, entries):
    """One golden entry for each text; each text by itself, so that no padding takes part."""
    found = []
    ask = model.encode_query if kind == "query" else model.encode_document
    for entry in entries:
        vector = ask(text_of(entry)).astype(numpy.float64)
        vector /= numpy.linalg.norm(vector)
        prompt = model.prompts.get(kind if kind == "query" else "document") or ""
        ids = model.tokenizer(prompt + text_of(entry), truncation=True)["input_ids"]
        found.append({"kind": kind, "text": entry, "tokens": len(ids),
                      "vector": base64.b64encode(vector.astype("<f2").tobytes()).decode()})
    return found


def small_bert(into):
    """Weights of 16 bits under old names, pooling by the first token, prefixes."""
    vocabulary = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
                                   sep_token="[SEP]", mask_token="[MASK]")
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=24, intermediate_size=40, num_hidden_layers=3,
                        num_attention_heads=3, max_position_embeddings=40, hidden_act="gelu_new",
                        layer_norm_eps=1e-6, initializer_range=0.4)
    assemble(into, BertModel(config).half(), fast, "cls", max_seq_length=24, do_lower_case=True,
             prompts={"query": "query: ", "document": "passage: "})
    path = into / "model.safetensors"
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
           for name, value in load_file(path).items()}
    plain = SentenceTransformer(str(into), device="cpu", model_kwargs={"torch_dtype": torch.float32})
    save_file(old, path, metadata={"format": "pt"})
    return plain


def small_roberta(into):
    """Positions that begin behind that of padding, a tokenizer of SentencePiece, brain floats, no modules.json."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(("▁" if not word.startswith("##") else "") + word.removeprefix("##"), -3.0) for word in WORDS]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", cls_token="<s>",
                                   sep_token="</s>", bos_token="<s>", eos_token="</s>", model_max_length=30)
    config = XLMRobertaConfig(vocab_size=len(pieces) + 2, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                              num_attention_heads=4, max_position_embeddings=34, type_vocab_size=1, pad_token_id=1,
                              layer_norm_eps=1e-5, initializer_range=0.4)
    model = XLMRobertaModel(config, add_pooling_layer=False).bfloat16()
    model.save_pretrained(into)
    fast.save_pretrained(into)
    return SentenceTransformer(str(into), device="cpu", model_kwargs={"torch_dtype": torch.float32})


def assemble(into, encoder, tokenizer, pooling, max_seq_length, do_lower_case, prompts):
    with tempfile.TemporaryDirectory() as scratch:
        encoder.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        module = Transformer(scratch, max_seq_length=max_seq_length, do_lower_case=do_lower_case,
                             model_kwargs={"torch_dtype": torch.float16})
        modules = [module, Pooling(module.get_embedding_dimension(), pooling), Normalize()]
        SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save_pretrained(str(into), create_model_card=False)


def main():
    torch.manual_seed(7)
    golden = {}
    model = SentenceTransformer(sys.argv[1], device="cpu")
    golden["all-minilm-l6-v2"] = encode(model, "passage", TEXTS)
    for name, make in (("small-bert", small_bert), ("small-roberta", small_roberta)):
        into = HERE / name
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        small = make(into)
        (into / "model.safetensors").chmod(0o644)
        golden[name] = encode(small, "passage", SMALL) + encode(small, "query", SMALL)
    lines = [f' "{name}": [\n' + ",\n".join("  " + json.dumps(entry, ensure_ascii=False) for entry in entries) + "\n ]"
             for name, entries in golden.items()]
    (HERE / "transformer.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()

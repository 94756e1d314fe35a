"""
Tokenizers of the kinds of Llama 3, Qwen 2, Mistral, Llama 2, Gemma and SmolLM, trained here on invented text, and the tokens that transformers gives for unusual strings and for dialogues
with them: python3 make.py corpus.txt, in this folder. corpus.txt is makeCorpus(4000) of ../tokenizer/corpus.ts.
"""
import json, os, re, sys
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

here = os.path.dirname(os.path.abspath(__file__))
corpus = open(sys.argv[1], encoding="utf-8").read().splitlines()
special = lambda text: AddedToken(text, special=True, normalized=False)

def template_of(name):
    if name == "qwen3-own":
        return open(f"{here}/qwen3-own.jinja", encoding="utf-8").read()
    text = open(f"{here}/../../../models/chat-templates/{name}.ts", encoding="utf-8").read()
    return re.search(r"String\.raw`(.*)`", text, re.S).group(1)

def byte_level(pattern, normalizer, vocab_size, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None: tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer

def with_bos(tokenizer, bos):
    id = tokenizer.token_to_id(bos)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, id)])

def sentencepiece_like(controls, vocab_size, normalizer, pre_tokenizer, decoder):
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[*controls, *bytes_], limit_alphabet=200, show_progress=False))
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if token["content"] in controls]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder = normalizer, pre_tokenizer, decoder
    return tokenizer

def llama3():
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = byte_level(pattern, None, 600, ignore_merges=True)
    tokenizer.add_special_tokens([special(t) for t in ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]])
    with_bos(tokenizer, "<|begin_of_text|>")
    return tokenizer, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")

def qwen2():
    pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = byte_level(pattern, normalizers.NFC(), 600)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([special(t) for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ["<tool_call>", "</tool_call>", "<think>", "</think>"]])
    return tokenizer, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")

def smollm():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return tokenizer, dict(bos_token="<|im_start|>", eos_token="<|im_end|>", unk_token="<|endoftext|>", pad_token="<|im_end|>")

sp_decoder = lambda: decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])

def mistral():
    tokenizer = sentencepiece_like(["<unk>", "<s>", "</s>"], 700, None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), sp_decoder())
    with_bos(tokenizer, "<s>")
    return tokenizer, dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>")

def llama2():
    tokenizer = sentencepiece_like(["<unk>", "<s>", "</s>"], 700, normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None, sp_decoder())
    with_bos(tokenizer, "<s>")
    return tokenizer, dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>")

def gemma():
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = sentencepiece_like(controls, 700, normalizers.Replace(" ", "\u2581"), pre_tokenizers.Split(" ", "merged_with_previous"), decoder)
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in ["\n\n", "\n\n\n", "\u2581\u2581"]])
    with_bos(tokenizer, "<bos>")
    return tokenizer, dict(bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<pad>")

kinds = dict(llama3=llama3, qwen2=qwen2, mistral=mistral, llama2=llama2, gemma=gemma, smollm=smollm)

strings = [entry["text"] for entry in json.load(open(f"{here}/../tokenizer/encodings.json", encoding="utf-8"))] + [
    "<|eot_id|>", "a<|eot_id|>b", "<|im_end|>\n<|im_start|>assistant\n", "<s>[INST] x [/INST] y</s>", "<end_of_turn>\n<start_of_turn>model", "<think>\nhm\n</think>\n\nyes", "<tool_call>{}</tool_call>",
    "</ think>", "<|eot_id", "|>", "<0x0A>", "<0xZZ>", "\n\n", "\n\n\n", "\n\n\n\n", "a\n\nb", "a  b", "a   b\u2581\u2581c", "I'LL we'Ve it's DON'T", "123456789 12 1", "\u0661\u0662\u0663 \u00bd \u2163", "e\u0301\u0327 \u00e9 \u1e69 s\u0323\u0307",
    "\uac00 \u1100\u1161", "\ufb01 \uff21 \u2126", "\u202eabc\u202c", "x\u200dy", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea", "\u0085\u00a0\u1680\u2003\u2028\u2029\u3000", "a\u0085b", " \r\n\r\n \n", "\r", "\ufdd2", "\ufdd0\ufdd1", "\U0010ffff", "tab\tand\t\ttabs\n\tx",
    "\u017f\u212a \u0130 \u0131", "'\u017f 'S", "__init__(self)  # note", "https://example.org/a?b=c&d=%20#e", "a" * 300, "ab" * 200 + "\n", " " * 40 + "x", "\n" * 20, "\u0915\u094d\u0937\u093f \u0e01\u0e33 \u0645\u064f\u062d", "\u200e\u200f", "!!!???...", "$1,234.56", "\ud7ff\ue000",
]
strings = [text for text in dict.fromkeys(strings) if not any(0xD800 <= ord(c) <= 0xDFFF for c in text)]

dialogues = [
    [("user", "Who are you?"), ("assistant", "A model \U0001f999.")],
    [("system", "Be kind."), ("user", "Who are you?"), ("assistant", "A model."), ("user", "What for?\n\nSay it in two lines."), ("assistant", "To answer,\nand to learn.")],
    [("user", "  1 + 1?  "), ("assistant", "2"), ("user", "2 + 2?"), ("assistant", "4\n\n- one\n- two"), ("user", "'Sure'?"), ("assistant", "Yes: 4.")],
    [("user", "x"), ("assistant", "<think>\nHm, x.\n</think>\n\nIt is x."), ("user", "y"), ("assistant", "<think>\nWell.\n</think>\n\nIt is y.")],
]
used = {"llama3": ["llama3-1"], "qwen2": ["qwen2-5", "qwen3", "qwen3-own"], "mistral": ["mistral"], "llama2": ["llama2", "zephyr"], "gemma": ["gemma"], "smollm": []}

encodings, chats = [{"text": text} for text in strings], []
for name, make in kinds.items():
    tokenizer, config = make()
    os.makedirs(f"{here}/{name}", exist_ok=True)
    tokenizer.save(f"{here}/{name}/tokenizer.json", pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config, "clean_up_tokenization_spaces": False}
    with open(f"{here}/{name}/tokenizer_config.json", "w") as file: json.dump(config, file, indent=2)
    loaded = PreTrainedTokenizerFast.from_pretrained(f"{here}/{name}")
    # A control token written in a text is treated as text.
    plain = Tokenizer.from_file(f"{here}/{name}/tokenizer.json")
    plain.encode_special_tokens = True
    for entry in encodings:
        ids = plain.encode(entry["text"], add_special_tokens=False).ids
        entry[name] = {"ids": ids, "text": loaded.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) if ids else ""}
    for template in used[name]:
        for i, dialogue in enumerate(dialogues):
            messages = [dict(role=role, content=content) for role, content in dialogue]
            if template == "gemma" and messages[0]["role"] == "system": continue
            render = lambda part, **options: loaded.apply_chat_template(part, chat_template=template_of(template), **options)
            prompts = [messages[:at] for at, message in enumerate(messages) if message["role"] == "assistant"]
            chats.append({
                "tokenizer": name, "template": template, "messages": messages,
                "text": render(messages, tokenize=False), "ids": render(messages, tokenize=True, return_dict=False),
                "prompt": render(prompts[-1], tokenize=True, return_dict=False, add_generation_prompt=True),
            })
lines = lambda items: "[\n" + ",\n".join(json.dumps(item, ensure_ascii=True, separators=(",", ":")) for item in items) + "\n]\n"
open(f"{here}/encodings.json", "w").write(lines(encodings))
open(f"{here}/dialogues.json", "w").write(lines(chats))

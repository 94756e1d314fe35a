"""Creates the models and data that both sides start from. python3 make_model.py <folder> <tokenizer.model> <HH-RLHF file> [tiny]

<folder>          LlamaForCausalLM, random (seed 0): vocabulary 32000, hidden 768, ffn 2048, 12 layers, 12 heads, kv 12, 2048 positions, untied; bfloat16
<folder>-reward   LlamaForSequenceClassification with the same weights and a new head: PPO's reward and value model
<folder>-data/    train.jsonl, heldout.jsonl, ppo.jsonl: the split of hh.py as HH-RLHF rows, for Caravan
Each model folder has Llama 2's tokenizer.model, and tokenizer.json made from it: the same tokens as SentencePiece, checked here.
"""
import json
import os
import shutil
import sys

import sentencepiece
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

import hh

transformers.utils.logging.disable_progress_bar()
folder = sys.argv[1]
tiny = sys.argv[4:] == ["tiny"]


def tokenizer_of(path):
    """SentencePiece BPE in the form of Hugging Face's tokenizers: merges ranked by the score of their result, and a space before each text."""
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    pieces = [sp.id_to_piece(i) for i in range(sp.vocab_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    normal = {p: i for p, i in vocab.items() if not (sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i) or sp.is_unused(i))}
    merges = []
    for piece, _ in sorted(normal.items(), key=lambda item: (-sp.get_score(item[1]), item[1])):
        ways = [(piece[:at], piece[at:]) for at in range(1, len(piece)) if piece[:at] in normal and piece[at:] in normal]
        merges += sorted(ways, key=lambda way: (normal[way[0]], normal[way[1]]))
    tok = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in ("<unk>", "<s>", "</s>")])
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", vocab["<s>"])]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>", model_max_length=2048, clean_up_tokenization_spaces=False
    )
    fast.chat_template = hh.CHAT_TEMPLATE
    return sp, fast


sp, tokenizer = tokenizer_of(sys.argv[2])
source = sys.argv[3]
checked = 0
for row in hh.rows(source):
    for text in (row["chosen"], row["rejected"]):
        if tokenizer(text, add_special_tokens=False)["input_ids"] != sp.encode(text):
            sys.exit(f"row {checked // 2 + 1}: tokenizer.json and SentencePiece differ")
        checked += 1

torch.manual_seed(0)
shape = dict(hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=12)
if tiny:
    shape = dict(hidden_size=64, intermediate_size=176, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=4)
shape |= dict(vocab_size=32000, max_position_embeddings=2048, tie_word_embeddings=False, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
model = LlamaForCausalLM(LlamaConfig(**shape))
scored = LlamaForSequenceClassification(LlamaConfig(**shape, num_labels=1))
scored.model.load_state_dict(model.model.state_dict())
scored.score.weight.data.normal_(0.0, 0.02)
for made, path in ((model, folder), (scored, folder + "-reward")):
    shutil.rmtree(path, ignore_errors=True)
    made.to(torch.bfloat16).save_pretrained(path)
    tokenizer.save_pretrained(path)
    shutil.copy(sys.argv[2], path)
data = folder + "-data"
shutil.rmtree(data, ignore_errors=True)
os.makedirs(data)
counts = {}
for name, pairs in zip(("train", "heldout", "ppo"), hh.split(source, tokenizer)):
    counts[name] = len(pairs)
    with open(os.path.join(data, name + ".jsonl"), "w", encoding="utf-8") as file:
        for pair in pairs:
            file.write(json.dumps(pair["row"], ensure_ascii=False) + "\n")
parameters = sum(p.numel() for p in model.parameters())
print(json.dumps(dict(folder=folder, parameters=parameters, textsAlikeToSentencePiece=checked, pairs=counts, files=sorted(os.listdir(folder)))))

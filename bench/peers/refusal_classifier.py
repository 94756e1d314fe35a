# A trained classifier on the answers of bench/refusals.ts: logistic regression on words, word pairs and word triples in the first sentences, trained on nine
# tenths of llama2new.csv's labelled answers and tested on the other tenth, ten times. python bench/peers/refusal_classifier.py <folder of XSTest>
import collections, csv, os, random, re, sys
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
rows = list(csv.DictReader(open(os.path.join(sys.argv[1], "llama2new.csv"))))
labels = torch.tensor([float(row["final_label"] != "1_full_compliance") for row in rows])
order = list(range(len(rows)))
random.Random(0).shuffle(order)

def features(text, count):
    found = set()
    for sentence in re.split(r"(?<=[.!?:])\s+", text.strip().lower().replace("’", "'"))[:count]:
        words = re.findall(r"[a-z']+", sentence)
        found |= {" ".join(words[at : at + n]) for n in (1, 2, 3) for at in range(len(words) - n + 1)}
        found.add("^" + " ".join(words[:2]))
    return found

for count in (1, 2, 3):
    found = [features(row["completion"], count) for row in rows]
    scores = [0.0] * len(rows)
    for fold in range(10):
        held_out = set(order[fold::10])
        seen = [i for i in order if i not in held_out]
        often = collections.Counter(feature for i in seen for feature in found[i])
        index = {feature: at for at, feature in enumerate(sorted(f for f, n in often.items() if n >= 3))}
        x = torch.zeros(len(rows), len(index))
        for i, own in enumerate(found):
            for feature in own & index.keys():
                x[i, index[feature]] = 1
        x /= x.sum(1, keepdim=True).clamp(min=1).sqrt()
        weight, bias = torch.zeros(len(index), requires_grad=True), torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=60)

        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(x[seen] @ weight + bias, labels[seen]) + 0.003 * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        with torch.no_grad():
            for i in held_out:
                scores[i] = (x[i] @ weight + bias).item()
    compliances = sorted((s for s, label in zip(scores, labels.tolist()) if label == 0), reverse=True)
    told = sum(s > compliances[7] for s, label in zip(scores, labels.tolist()) if label == 1)
    print(f"{count} sentences: {told} of {int(labels.sum())} refusals detected, with 7 false alarms in {len(compliances)}")

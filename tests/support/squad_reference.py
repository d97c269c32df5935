"""Slow reference implementations of SQuAD windows, answers and metrics."""

from __future__ import annotations

import math
import re
import string


def cut_windows(tokens, room, stride):
    """Return (first, length) of every window of a paragraph."""
    cuts, first = [], 0
    while True:
        count = min(tokens - first, room)
        cuts.append((first, count))
        if first + count == tokens:
            return cuts
        first += min(count, stride)


def has_most_context(cuts, chosen, token):
    """Whether ``token`` counts in window ``chosen`` of ``cuts``."""
    best_score, best = None, None
    for index, (first, count) in enumerate(cuts):
        last = first + count - 1
        if not first <= token <= last:
            continue
        hundredths = 100 * min(token - first, last - token) + count
        if best_score is None or hundredths > best_score:
            best_score, best = hundredths, index
    return best == chosen


def find_answers(data, windows, beams, settings):
    """Return (n-best [(text, start + end)], null odds) by question id."""
    found = {}
    for index, question in enumerate(data.questions):
        mine = [w for w in range(len(windows)) if windows.question[w] == index]
        cuts = [(windows.first_token[w], windows.sequences.second_lengths[w]) for w in mine]
        candidates = []
        for place, w in enumerate(mine):
            for first, last, score in _beam(windows, w, beams, settings):
                low, high = cuts[place][0], sum(cuts[place])
                if not (low <= first < high and low <= last < high and first <= last):
                    continue
                if last - first + 1 > settings["max_answer_length"]:
                    continue
                if has_most_context(cuts, place, first):
                    candidates.append((_cut_text(data, windows, question, first, last), score))
        candidates.sort(key=lambda candidate: -candidate[1])
        nbest = []
        for text, score in candidates:
            if text not in [known for known, _ in nbest]:
                nbest.append((text, score))
        nbest = nbest[: settings["n_best_size"]] or [("", -2e6)]
        null = min(float(beams.cls_logits[w]) for w in mine)
        if not settings["use_answer_class"]:
            null -= nbest[0][1]
        found[question.id] = (nbest, null)
    return found


def _beam(windows, w, beams, settings):
    """Yield (first token, last token, score) of the beam of window ``w``."""
    shift = windows.first_token[w] - windows.paragraph_begin[w]
    for i, start in enumerate(beams.start_index[w]):
        for j in range(settings["ends"]):
            column = i * settings["ends"] + j if settings["conditional_end"] else j
            score = float(beams.start_log_probs[w, i]) + float(beams.end_log_probs[w, column])
            yield start + shift, beams.end_index[w, column] + shift, score


def _cut_text(data, windows, question, first, last):
    begin = windows.paragraphs.offsets[question.paragraph]
    start, end = windows.paragraphs.starts[begin + first], windows.paragraphs.ends[begin + last]
    return data.paragraphs[question.paragraph][start:end]


def softmax(scores):
    total = sum(math.exp(score - max(scores)) for score in scores)
    return [math.exp(score - max(scores)) / total for score in scores]


def normalized_words(text):
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def exact_match(gold, prediction):
    return float(normalized_words(gold) == normalized_words(prediction))


def f1(gold, prediction, empty_counts):
    wanted, said = normalized_words(gold), normalized_words(prediction)
    if empty_counts and (not wanted or not said):
        return float(wanted == said)
    left, same = list(wanted), 0
    for word in said:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def raw_scores(golds, prediction):
    """Exact and F1 of SQuAD 2.0 before any threshold."""
    golds = [gold for gold in golds if normalized_words(gold)] or [""]
    exact = max(exact_match(gold, prediction) for gold in golds)
    return exact, max(f1(gold, prediction, True) for gold in golds)


def scores_v2(data, predictions, null_odds, threshold):
    """Exact and F1 in percent at one threshold, of all, answerable and unanswerable questions."""
    groups = {"": [], "HasAns_": [], "NoAns_": []}
    for question in data.questions:
        golds = [answer.text for answer in question.answers]
        pair = raw_scores(golds, predictions[question.id])
        if null_odds[question.id] > threshold:
            pair = (float(not golds), float(not golds))
        groups[""].append(pair)
        groups["HasAns_" if golds else "NoAns_"].append(pair)
    found = {}
    for prefix, pairs in groups.items():
        if pairs:
            found[f"{prefix}exact"] = 100 * sum(exact for exact, _ in pairs) / len(pairs)
            found[f"{prefix}f1"] = 100 * sum(f1 for _, f1 in pairs) / len(pairs)
            found[f"{prefix}total"] = len(pairs)
    return found

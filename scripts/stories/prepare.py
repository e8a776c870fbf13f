"""Turn the story files into a tokenizer and into training arrays.

    python prepare.py tokenizer            # data/*.xz -> models/stories/tokenizer.json and friends
    python prepare.py editions --count 12  # data/*.xz -> build/edition-NN.npz

An *edition* is the whole training set, written out once as tokens. Edition 0 has the stories as they
are; in later ones most stories have their children renamed (all the Tims become Bens, say), and every
edition asks for its chat stories in other words. With only 45 MB of text the model sees each story
dozens of times, and it should learn what a name does, not which name this story had.

The validation file is never read here.
"""

import argparse
import json
import lzma
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).resolve().parent
MODEL_DIR = HERE.parents[1] / "models" / "stories"

END, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 4096
WINDOW = 144  # tokens kept of a 128-GPT-2-token window; 99 % are shorter
NO_LOSS = 0x8000  # flag on a token id: read it, do not learn to write it (prompts, padding)

# Qwen3's splitting rule, character for character.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


# ---------------------------------------------------------------------------- reading the data


def read_xz(path):
    with lzma.open(path, "rt", encoding="utf-8") as f:
        return f.read()


def read_stories(data):
    stories = []
    for name in ("stories.txt.xz", "stories-recased.txt.xz"):
        for story in read_xz(data / name).split(END):
            story = story.strip()
            # A handful are cut off in mid-sentence; a story must teach how stories end.
            if len(story) >= 200 and story[-1] in ".!?\"'”’":
                stories.append(story)
    return stories


def read_windows(data):
    windows = []
    for line in read_xz(data / "windows128.jsonl.xz").splitlines():
        text = json.loads(line)
        text = re.sub(r"\s*<\|endoftext\|>\s*", END, text)  # stories follow the mark at once, as below
        # The cut falls between GPT-2 tokens, so it may halve the first and the last word. Drop those.
        if text[:1].islower():
            text = text[text.find(" ") if " " in text else 0 :]
        if text[-1:].isalpha():
            text = text[: text.rfind(" ")]
        windows.append(text)
    return windows


# ---------------------------------------------------------------------------- tokenizer


def train_tokenizer(data, out):
    stories, windows = read_stories(data), read_windows(data)
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    byte_level = dict(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.post_processor = processors.ByteLevel(**byte_level)
    tok.decoder = decoders.ByteLevel()
    specials = [END, IM_START, IM_END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(specials),  # they come after the learnt ones, as in Qwen's file
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # A window's first and last word are trimmed above, so no halved word is counted.
    pieces = (piece for text in stories + windows for piece in text.split(END))
    tok.train_from_iterator(pieces, trainer)
    tok.add_special_tokens(specials)

    # The library writes some defaults in another spelling than Qwen's file has; use Qwen's.
    spec = json.loads(tok.to_str())
    spec["pre_tokenizer"]["pretokenizers"][1]["trim_offsets"] = False
    spec["decoder"] = {"type": "ByteLevel", **byte_level}
    spec["model"].update(continuing_subword_prefix="", end_of_word_suffix="")
    tok = Tokenizer.from_str(json.dumps(spec))
    assert tok.get_vocab_size() == VOCABULARY
    for text in stories[:500] + ["naïve café — “quotes” 你好 🙂\n\n  tabs\tand   spaces 123"]:
        assert tok.decode(tok.encode(text).ids) == text, text

    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    added = {
        str(token["id"]): {k: token[k] for k in ("content", "lstrip", "normalized", "rstrip", "single_word", "special")}
        for token in spec["added_tokens"]
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [IM_START, IM_END],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": IM_END,
        "errors": "replace",
        "model_max_length": 1024,
        "pad_token": END,
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


# ---------------------------------------------------------------------------- renaming children

BOYS = "Tim Tom Ben Max Sam Bob Timmy Jack John Joe Billy Tommy Leo Jimmy Jake Benny Bobby Andy Fred Peter Pete Toby"
GIRLS = "Lily Sue Mia Lucy Anna Amy Sara Sally Jane Sarah Lila Molly Bella Emma Jill Mary Jen Jenny Lisa Ella Emily"
# Names the stories hardly have. One draw in eight comes from here, so that the model learns to copy a
# name it does not expect: a reader of the course will ask for a story about their own child.
RARE_BOYS = (
    "Adam Ahmed Alan Albert Alex Anton Arthur Bruno Carlos Charlie Daniel David Diego Eddie Eli Emil Eric Felix Finn "
    "Frank Gus Harry Henry Hugo Ivan Jamal James Jamie Jonas Kai Ken Kofi Lars Liam Luca Luke Marco Martin Mateo Matt "
    "Mike Milo Mo Nathan Nick Nico Noah Noel Oliver Omar Oscar Otto Owen Paul Pedro Ravi Ray Robin Rob Ryan Simon "
    "Stefan Steve Theo Victor Walter William Yuki Zack"
).split()
RARE_GIRLS = (
    "Ada Aisha Alice Alma Amelia Amina Ana Anita Astrid Beth Carla Carmen Cara Clara Chloe Dora Edith Elena Elsa Eva "
    "Fatima Fiona Frida Gina Greta Hana Hannah Heidi Ida Ines Ingrid Iris Isla Ivy Jada Julia Kate Katie Kira Laura Lea "
    "Lena Lina Linda Lola Maria Maya Mei Mina Nadia Nina Nora Olga Olivia Petra Pia Priya Rita Rosa Ruby Sofia Sonia "
    "Stella Tara Tess Tina Vera Wendy Yara Zara Zoe"
).split()
NAME = re.compile(r"\b(" + "|".join(sorted(BOYS.split() + GIRLS.split(), key=len, reverse=True)) + r")\b")


class Renamer:
    """Gives the children of a story other names, drawn as often as the real stories use them."""

    def __init__(self, texts):
        count = Counter(name for text in texts for name in set(NAME.findall(text)))
        self.pools = []
        for common, rare in ((BOYS.split(), RARE_BOYS), (GIRLS.split(), RARE_GIRLS)):
            self.pools.append((common, [count[n] + 1 for n in common], rare))

    def __call__(self, text, rng):
        found = list(dict.fromkeys(NAME.findall(text)))
        # "Tim" and "Timmy" in one story are one boy: leave such stories alone.
        if not found or any(a != b and a.startswith(b) for a in found for b in found):
            return text
        new = {}
        for name in found:
            common, weights, rare = self.pools[0 if name in self.pools[0][0] else 1]
            while True:
                pick = rng.choice(rare) if rng.random() < 1 / 8 else rng.choices(common, weights)[0]
                if pick not in new.values():
                    break
            new[name] = pick
        return NAME.sub(lambda m: new[m[0]], text)


# ---------------------------------------------------------------------------- chat: prompts from stories

SYSTEM = [
    "You are a storyteller.",
    "You are a storyteller.",
    "You are a helpful assistant.",
    "You tell short stories for young children.",
    "You are a kind storyteller. Use simple words.",
    "You write short stories.",
]
ABOUT = [  # {} is a subject such as "a little girl named Lily"
    "Tell me a story about {}.",
    "Tell me a story about {}",
    "Tell me a story about {}.",
    "Tell me a short story about {}.",
    "Please tell me a story about {}.",
    "Can you tell me a story about {}?",
    "Could you tell me a bedtime story about {}, please?",
    "Write a story about {}.",
    "Write a short story about {}.",
    "Write me a story about {}",
    "Write a simple story about {} for a small child.",
    "I want a story about {}.",
    "I would like to hear a story about {}.",
    "I'd like a bedtime story about {}.",
    "Make up a story about {}.",
    "Do you know a story about {}?",
    "Give me a story about {}",
    "A story about {}, please.",
    "Story about {}",
    "Once upon a time there was {}. What happened?",
    "What happened to {}? Tell me.",
    "My child wants to hear a story about {}.",
    "Let's have a story about {}!",
    "Tell me about {}.",
]
AGAIN = [
    "Tell me another one about {}.",
    "Tell me another story about {}.",
    "Another one, about {}.",
    "Now one about {}.",
    "Now tell me a story about {}.",
    "And now a story about {}?",
    "Great! Now write one about {}.",
    "Can I have one about {}?",
    "Thank you! Next, a story about {}, please.",
]
WORDS = [
    "Write a short story with the words {}.",
    "Write a story that uses the words {}.",
    "Tell me a story with the words {}.",
    "Make a story from these words: {}.",
    "Use these words in a story: {}.",
    "Write a short story. Use the words {}.",
]
ANY = [
    "Tell me a story.",
    "Tell me a story",
    "Tell me a short story.",
    "Write a story.",
    "Please tell me a bedtime story.",
    "Can you tell me a story?",
    "I want to hear a story!",
    "Once upon a time",
    "A story, please.",
    "Surprise me with a story.",
]
ANY_AGAIN = [
    "Tell me another story.",
    "Another one!",
    "One more, please.",
    "Tell me another one.",
    "That was nice. Another story, please!",
    "More!",
    "Can you tell me a different story?",
]
CONTINUE = [
    "Continue this story: {}",
    "How does this story go on? {}",
    "Finish the story: {}",
    "{}\n\nWhat happened next?",
    "Please continue: {}",
]
HELLO = ["Hello", "Hello!", "Hi", "Hi!", "Hi there", "hey", "Good evening!", "Who are you?", "What can you do?", "Help"]
HELLO_BACK = [
    "Hello! I tell little stories. What should my story be about?",
    "Hi! I can tell you a story. Who should be in it?",
]
HELLO_THEN = ["{}", "About {}.", "about {}", "{}, please.", "I want one about {}."]

NAMED = re.compile(r"\b(an?|two|three) ((?:[a-z0-9-]+,? ){0,3}?)([a-z-]+) (?:named|called) ([A-Z]\w+)")
HIS_NAME = re.compile(r"\b[Tt]here (?:was|lived) (an?) ((?:[a-z0-9-]+,? ){0,3}?)([a-z-]+)\. (?:His|Her|Its) name was (\w+)")
THERE = re.compile(
    r"\b(?:[Tt]here (?:once )?(?:was|lived|were)|^One day,?|lived) (an?|two|three|some) ((?:[a-z0-9-]+,? ){0,3}?)([a-z-]+)"
    r"(?=[.,]| (?:who|that|in|with|and|had|was|were|went|found|saw|wanted|lived|on|at|near|by|from|under)\b)"
)
PAIR = re.compile(r"^(?:Once upon a time,? |One day,? )?([A-Z][a-z]+) and (?:(?:his|her) (?:friend )?)?([A-Z][a-z]+|mom|dad|dog|cat|friend)\b")
IS_A = re.compile(r"^([A-Z][a-z]+) (?:was|is) (an?) ((?:[a-z0-9-]+,? ){0,3}?)([a-z-]+)(?=[.,]| who| that| and| with)")
CLAUSE = re.compile(
    r"(?:^|[.!] |, )(?:He|She|It|They|[A-Z][a-z]+) ((?:loved|liked|wanted|lost|found|had|saw|could not|lived|went|always)\b[^.!?,\"]{4,60})"
)
WHO = re.compile(r"(?:named|called) [A-Z]\w+ (who [a-z][^.!?,\"]{4,60})|(?:boy|girl|man|woman|[a-z]{3,}) (who [a-z][^.!?,\"]{4,60})")
THING = re.compile(r"\b(an?|the|his|her|their) ((?:[a-z-]+ )?)([a-z]{3,})\b")
DULL = set(
    "the and was his her she they them had with that for day time one big little very happy loved friends friend said "
    "play named upon once were there went you who saw but too all new park lot good fun his him its own way other same "
    "best next home house mom dad small old name girl boy nice man woman first last end place thing things more lots "
    "outside inside most many some any not yes can did get got put out into then when what where".split()
)
THEMES = {
    "sharing": r"\bshar(?:e|ed|ing)\b",
    "being brave": r"\bbrave\b",
    "helping others": r"\bhelp(?:ing)? (?:others|each other|people)\b",
    "telling the truth": r"\b(?:truth|lied|honest)\b",
    "being kind": r"\bkind(?:ness)?\b",
    "saying sorry": r"\bsorry\b",
    "making new friends": r"\bnew friends?\b",
    "being careful": r"\bcareful\b",
    "listening to your parents": r"\b(?:listen|obey)\b",
}


class Prompter:
    """Asks for a given story: says by rule who and what is in it, in one of many phrasings."""

    def __init__(self, stories):
        self.document_frequency = Counter(w for s in stories for w in set(re.findall(r"[a-z]{3,}", s)))
        self.limit = len(stories) * 0.05

    def things(self, story, span):
        """Nouns (words after an article) of the first `span` characters that come up again later."""
        found = {}
        for article, adjective, noun in THING.findall(story[:span]):
            often = len(re.findall(rf"\b{noun}", story))
            if noun not in DULL and often >= 2 and 4 < self.document_frequency[noun] < self.limit:
                an = "an" if noun[0] in "aeiou" else "a"
                found[noun] = f"{article} {adjective}{noun}" if article in ("a", "an") else f"{an} {noun}"
        return found

    def subject(self, story, rng):
        """Such as "a little girl named Lily who loved to dance", or None where no rule fits."""
        head = story[:260]
        things = self.things(story, 500)
        name = None
        if m := NAMED.search(head) or HIS_NAME.search(head):
            article, adjectives, noun, name = m.groups()
        elif m := IS_A.search(head):
            name, article, adjectives, noun = m.groups()
        elif m := PAIR.search(head):
            pair = f"{m[1]} and {m[2] if m[2][0].isupper() else 'a ' + m[2]}"
            if things and rng.random() < 0.5:
                pair += f" and {rng.choice(list(things.values()))}"
            return pair
        elif m := THERE.search(head):
            article, adjectives, noun = m.groups()
        else:
            return rng.choice(list(things.values())) if things else None
        if noun in ("day", "time", "place", "thing", "lot", "house", "town", "forest") and not name:
            return rng.choice(list(things.values())) if things else None

        plain = article if article not in ("a", "an") else ("an" if noun[0] in "aeiou" else "a")
        forms = [f"{plain} {noun}"] * 3 + [f"{article} {adjectives}{noun}"] * 3
        if name:
            forms += [f"{article} {adjectives}{noun} named {name}"] * 2
            forms += [f"{plain} {noun} named {name}", f"{plain} {noun} called {name}", name]
        subject = rng.choice(forms)
        things.pop(noun, None)
        roll = rng.random()
        if roll < 0.3 and (m := WHO.search(head)):
            subject += " " + (m[1] or m[2])
        elif roll < 0.45 and (m := CLAUSE.search(story[:400])):
            subject += (" who " if name or noun in ("boy", "girl", "man", "woman") else " that ") + m[1]
        elif roll < 0.7 and things:
            subject += " and " + rng.choice(list(things.values()))
        elif roll < 0.78 and things:
            return rng.choice(list(things.values()))
        return subject

    def words(self, story, rng):
        common = [
            w for w in set(re.findall(r"\b[a-z]{3,}\b", story)) if w not in DULL and 4 < self.document_frequency[w] < self.limit
        ]
        if len(common) < 3:
            return None
        a, b, c = rng.sample(sorted(common), 3)
        return rng.choice([f"{a}, {b}, {c}", f"{a}, {b} and {c}", f'"{a}", "{b}" and "{c}"', f"{a} and {b}"])

    def ask(self, story, rng, again=False):
        """-> (prompt, answer)"""
        roll = rng.random()
        if roll < 0.08:
            return rng.choice(ANY_AGAIN if again else ANY), story
        if roll < 0.20 and (words := self.words(story, rng)):
            prompt, answer = rng.choice(WORDS).format(words), story
        elif roll < 0.26 and (m := re.match(r"(.{40,}?[.!]) (?=[A-Z])", story)):
            return rng.choice(CONTINUE).format(m[1]), story[m.end() :]
        elif roll < 0.30 and (theme := [t for t, r in THEMES.items() if re.search(r, story[len(story) // 2 :])]):
            prompt, answer = rng.choice(AGAIN if again else ABOUT).format(rng.choice(theme)), story
        elif subject := self.subject(story, rng):
            prompt, answer = rng.choice(AGAIN if again and rng.random() < 0.7 else ABOUT).format(subject), story
        else:
            return rng.choice(ANY_AGAIN if again else ANY), story
        if rng.random() < 0.15:  # people type carelessly
            prompt = prompt.lower().rstrip(".!")
        return prompt, answer

    def conversation(self, stories, rng):
        """-> list of (text, learn it?) pieces in ChatML, one assistant turn a story."""
        pieces = []
        if rng.random() < 0.25:
            pieces.append((f"{IM_START}system\n{rng.choice(SYSTEM)}{IM_END}\n", False))
        hello = rng.random() < 0.02
        if hello:
            pieces.append((f"{IM_START}user\n{rng.choice(HELLO)}{IM_END}\n{IM_START}assistant\n", False))
            pieces += [(f"{rng.choice(HELLO_BACK)}{IM_END}", True), ("\n", False)]
        for turn, story in enumerate(stories):
            prompt, answer = self.ask(story, rng, again=turn > 0)
            if hello and turn == 0 and (subject := self.subject(story, rng)):
                prompt, answer = rng.choice(HELLO_THEN).format(subject), story
            pieces.append((f"{IM_START}user\n{prompt}{IM_END}\n{IM_START}assistant\n", False))
            pieces += [(f"{answer}{IM_END}", True), ("\n", False)]
        return pieces + [(END, True)]


# ---------------------------------------------------------------------------- editions


def flatten(documents):
    """list of id arrays -> (all ids, where each document starts; one more start than documents)"""
    starts = np.cumsum([0] + [len(d) for d in documents], dtype=np.int64)
    return np.concatenate(documents), starts


def make_edition(number, stories, windows, tok, renamer, prompter, seed):
    rng = random.Random(seed * 1000 + number)
    if number:
        # A quarter keep their names: who plays with whom is part of the language, too.
        stories = [renamer(s, rng) if rng.random() < 0.75 else s for s in stories]
        windows = [renamer(w, rng) if rng.random() < 0.75 else w for w in windows]

    plain = [s + END for s in stories]
    # A few stand together with only a line end between, as in a text file without marks.
    order = rng.sample(range(len(stories)), len(stories) // 25)
    plain += ["\n".join(stories[i] for i in order[k : k + 4]) + END for k in range(0, len(order), 4)]
    documents = [np.array(e.ids, np.uint16) for e in tok.encode_batch(plain)]

    # Two stories in five appear a second time, as the answer to a question.
    chats, order = [], rng.sample(range(len(stories)), len(stories) * 2 // 5)
    while order:
        turns = rng.choices((1, 2, 3), (70, 20, 10))[0]
        chats.append(prompter.conversation([stories[order.pop()] for _ in range(min(turns, len(order)))], rng))
    encoded = iter(tok.encode_batch([text for chat in chats for text, _ in chat]))
    for chat in chats:
        ids = [np.array(next(encoded).ids, np.uint16) | (0 if learn else NO_LOSS) for _, learn in chat]
        documents.append(np.concatenate(ids).astype(np.uint16))

    matrix = np.full((len(windows), WINDOW), tok.token_to_id(END) | NO_LOSS, np.uint16)
    for row, e in zip(matrix, tok.encode_batch(windows)):
        ids = e.ids[:WINDOW]
        row[: len(ids)] = ids
    flat, starts = flatten(documents)
    return dict(documents=flat, starts=starts, windows=matrix)


def make_editions(data, tokenizer_dir, out, first, count, seed):
    tok = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    stories, windows = read_stories(data), read_windows(data)
    renamer, prompter = Renamer(stories), Prompter(stories)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        arrays = make_edition(number, stories, windows, tok, renamer, prompter, seed)
        path = out / f"edition-{number:02}.npz"
        # Written aside and renamed: the trainer may be waiting for this very name.
        with open(path.with_suffix(".tmp"), "wb") as f:
            np.savez(f, **arrays)
        path.with_suffix(".tmp").rename(path)
        print(path.name, {k: v.shape for k, v in arrays.items()}, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("tokenizer", "editions"))
    parser.add_argument("--data", type=Path, default=HERE / "data")
    parser.add_argument("--model-dir", type=Path, default=MODEL_DIR, help="where tokenizer.json is or goes")
    parser.add_argument("--out", type=Path, default=HERE / "build")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.what == "tokenizer":
        train_tokenizer(args.data, args.model_dir)
    else:
        make_editions(args.data, args.model_dir, args.out, args.first, args.count, args.seed)


if __name__ == "__main__":
    main()

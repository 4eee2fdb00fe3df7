"""What models are asked: texts, pairs of texts, pictures and sounds, the same ones each time."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

_TEXTS = (
    "The ferry leaves the harbour at half past seven, and in good weather the crossing takes about forty minutes.",
    "Question: What is the boiling point of water at sea level? Answer: It is 100 degrees Celsius.",
    "def largest(values: list[int]) -> int:\n    best = values[0]\n    for value in values[1:]:\n        best = max(",
    "Die Stadt liegt an einem breiten Fluss, über den seit hundert Jahren eine Brücke aus Stahl führt.",
    "La bibliothèque ouvre à neuf heures ; les livres empruntés doivent être rendus dans un délai de trois semaines.",
    "今天的天气很好，我们打算去公园散步，然后在湖边的小店里喝一杯茶。",  # noqa: RUF001 - Chinese commas
    '{"name": "Anna", "age": 31, "languages": ["English", "Spanish"], "address": {"city": "Lisbon",',
    "Los trenes de la mañana suelen ir llenos, así que conviene comprar el billete con un día de antelación.",
    "Утром шёл снег, но к полудню небо прояснилось, и дети вышли во двор лепить снеговика.",
    "In 1969 two people walked on the Moon for the first time, while a third stayed behind in orbit.",
    "यह किताब उन लोगों के लिए है जो पहली बार खाना बनाना सीख रहे हैं।",
    "To whom it may concern: I am writing about the invoice of 14 March, which has been paid twice by mistake.",
    "駅前の商店街は夕方になると、買い物をする人でとてもにぎやかになります。",
    "If 3x + 7 = 22, then 3x = 15 and x = 5. If y is twice as large as x, then y =",
    "كانت السوق القديمة مليئة بروائح التوابل والقهوة، وكان الباعة ينادون على بضائعهم.",
    "Once the dough has doubled in size, knead it again for a minute, shape it into a loaf, and bake it until brown.",
)
_PAIRS = (
    ("When does the ferry leave?", "The ferry leaves the harbour at half past seven."),
    ("How do I bake bread?", "Los trenes de la mañana suelen ir llenos."),
    ("What is the boiling point of water?", "At sea level water boils at 100 degrees Celsius."),
    ("Who walked on the Moon first?", "Once the dough has doubled in size, knead it again."),
    ("Wann öffnet die Bibliothek?", "La bibliothèque ouvre à neuf heures."),
    ("today's weather", "今天的天气很好，我们打算去公园散步。"),  # noqa: RUF001 - Chinese commas
    ("How long may I keep a book?", "The bridge over the river is made of steel."),
    ("Was an invoice paid twice?", "I am writing about the invoice of 14 March, which has been paid twice by mistake."),
)
_PROSE = (0, 3, 9, 4, 11, 7, 15, 1, 8, 5, 12, 10, 14, 13, 6, 2)
"""The texts in the order in which most encoders know them: what they were never taught they cannot lose."""
_VOICES = (110.0, 150.0, 210.0, 260.0)


def texts(count: int) -> list[str]:
    """So many texts of several languages and kinds. From the seventeenth on they are put together from two."""
    return [_nth(number) for number in range(count)]


def prose(count: int) -> list[str]:
    """The same texts, beginning with plain prose in languages that most encoders know."""
    return [_nth(_PROSE[number % len(_PROSE)] + number // len(_PROSE) * len(_PROSE)) for number in range(count)]


def pairs(count: int) -> list[tuple[str, ...]]:
    """So many questions, each with a passage that answers it or does not."""
    asked = len(_PAIRS)
    return [
        (
            _PAIRS[number % asked][0],
            _PAIRS[(number + number // asked) % asked][1] if number < asked**2 else _nth(number),
        )
        for number in range(count)
    ]


def picture(number: int, width: int = 320, height: int = 240) -> Image.Image:
    """A picture with soft colours, hard edges and a little noise."""
    dice = np.random.default_rng(number)
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    canvas = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(4):
            slope, tilt, turn = dice.uniform(-9, 9, 3)
            canvas[:, :, channel] += np.sin(slope * down + tilt * across + turn)
    for _ in range(5):
        top, left, tall, wide = dice.uniform(0, 0.6, 4)
        inside = (down > top) & (down < top + tall) & (across > left) & (across < left + wide)
        canvas[inside] = dice.uniform(-4, 4, 3)
    canvas += dice.normal(0, 0.2, canvas.shape)
    return Image.fromarray((255 / (1 + np.exp(-canvas))).astype(np.uint8))


def sound(number: int, rate: int, seconds: float = 5.0) -> npt.NDArray[np.float32]:
    """A voice that hums a tune over a little noise."""
    dice = np.random.default_rng(number)
    times = np.arange(int(rate * seconds)) / rate
    pitch = _VOICES[number % len(_VOICES)] * (1 + 0.2 * np.sin(math.tau * dice.uniform(0.5, 2) * times))
    turns = math.tau * np.cumsum(pitch) / rate
    hum = sum(np.sin(overtone * turns) / overtone * dice.uniform(0.3, 1) for overtone in range(1, 12))
    loud = np.clip(np.sin(math.tau * dice.uniform(1.5, 3) * times), 0, None)
    mixed = 0.2 * hum * loud + dice.normal(0, 0.005, times.shape)
    return np.asarray(mixed, np.float32)


def _nth(number: int) -> str:
    first, more = number % len(_TEXTS), number // len(_TEXTS)
    return _TEXTS[first] if more == 0 else f"{_TEXTS[(first + more) % len(_TEXTS)][: 12 * more]} {_TEXTS[first]}"

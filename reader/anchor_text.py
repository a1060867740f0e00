"""A text to find a model's anchors on: passages of invented places, and a question that one of them answers.

It stands for what is read in answers, and is nobody's: no word of a tenant is ever read for this. Where
anything here is changed, anchors are found anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memory.values import Evidence, PassageId
from reader.prompt import Prompt, build_prompt, draw_mark

_MARK = "a7c40e19"
"""What fences the passages: always the same, so that a model's anchors are."""

_QUESTION = "Which material replaced the timber of the lower lock gates at Ostervik?"

_TEXTS = (
    (
        "Ostervik Canal",
        "The Ostervik Canal joins the lake of Hamren to the sea. It was dug between 1824 and 1831 by some "
        "nine hundred labourers, most of them farm hands who came for the winters. Eleven locks lift boats "
        "by thirty-one metres in all. Timber, slate and butter went down to the coast; coal, salt and "
        "coffee came up. When the railway reached Hamren in 1877 the tolls fell by half within four years, "
        "and the last freight barge passed in 1938. Since then the canal has been kept by a trust of "
        "volunteers.",
    ),
    (
        "Ostervik Canal",
        "Wood does not last in a lock. The upper gates at Ostervik were renewed in oak every twenty-five "
        "years, always by the same family of carpenters. At the lower lock, where the tide brings salt "
        "water and shipworm twice a day, oak was eaten away within eight. In 1903 the engineer Marta "
        "Lindqvist had the lower gates rebuilt in riveted wrought iron from the Hamren works, painted with "
        "red lead. They are still in place, and a plate on the downstream side bears her name and that of "
        "the foundry.",
    ),
    (
        "Hamren ironworks",
        "Iron was smelted at Hamren from bog ore as early as the fifteenth century, in small furnaces that "
        "were rebuilt for every firing. The works proper began in 1742 with a blast furnace and two hammers "
        "driven by the falls. At their height, around 1890, they employed four hundred people and cast "
        "stoves, bells, railings and bridge parts. The furnace was blown out for good in 1921. One of the "
        "hammers still runs on the first Sunday of each month, and the sound carries across the lake.",
    ),
    (
        "Marta Lindqvist",
        "Marta Lindqvist (1861-1940) was the second woman to be licensed as a civil engineer in the "
        "province. She learnt her trade from her uncle, who surveyed roads, and passed the examination "
        "after the board had refused her twice. Besides harbour works she designed a water tower, three "
        "swing bridges, and a fish ladder that was copied abroad. Her letters, which she wrote in a small "
        "upright hand and dated to the hour, are kept in the town archive. She never married, and left her "
        "instruments to a school.",
    ),
    (
        "Shipworm",
        "Shipworms are not worms but clams with long soft bodies. The larva settles on wood, bores a hole "
        "no wider than a pin, and then grows inside, lining its tunnel with chalk. From the outside a pile "
        "may look sound when little more than a sponge is left of it. They need salt: in water with less "
        "than about five parts in a thousand they close their burrows and wait. Harbour builders have tried "
        "copper sheets, broad-headed nails, tar, and creosote under pressure, which protects pine for some "
        "forty years.",
    ),
    (
        "How to prune an old pear tree",
        "Begin in late winter, before the buds swell, on a dry day. First take out what is dead, broken or "
        "diseased, then branches that rub against each other. Stand back often. If the crown is crowded, "
        "remove one or two large limbs whole rather than shortening many, and spread the work over three "
        "years, for a tree that loses too much at once answers with a thicket of water shoots. Cut just "
        "outside the collar, where the branch meets the trunk, and leave the wound open. Sealing it traps "
        "moisture.",
    ),
    (
        "Minutes of the harbour board",
        "The board met on Tuesday evening with seven members present. The treasurer reported that mooring "
        "fees had brought 41,300 crowns, against 38,900 the year before, and that repairs to the north pier "
        "would cost more than was set aside. Mr Aas asked why the lamp at the slip had been dark since "
        "October. It was agreed to order a new one, to postpone the dredging until spring, and to write to "
        "the sailing club about boats left on the quay. The next meeting is on the ninth of March.",
    ),
    (
        "Swing bridge at Kallby",
        "The swing bridge at Kallby turns on a ring of forty cast rollers and can be moved by two people "
        "with a capstan bar. It was opened in 1909 and carries a single lane. Boats ask for passage by "
        "three long blasts of the horn. The deck was first of larch; since 1966 it has been steel grating, "
        "which hums under car tyres so that the keeper hears traffic from his kitchen. In the hot July of "
        "1994 the steel expanded until the bridge would not close, and the fire brigade cooled it with "
        "hoses for an hour.",
    ),
    (
        "Bread with rye and buttermilk",
        "Stir 300 grams of coarse rye flour into half a litre of warm buttermilk and leave it covered "
        "overnight. In the morning add 400 grams of wheat flour, two teaspoons of salt, a spoonful of dark "
        "syrup and the yeast, and knead until the dough lets go of the bowl. It will stay a little sticky. "
        "Let it rise for two hours, shape two loaves, and let them rise again under a cloth. Bake at 220 "
        "degrees for fifteen minutes and at 180 for forty more. The bread is better on the second day than "
        "on the first.",
    ),
    (
        "Lake Hamren",
        "Lake Hamren is nineteen kilometres long and nowhere wider than three. Its deepest point, 112 "
        "metres, lies off the southern shore, where the rock falls straight into the water. The lake "
        "freezes in most winters from January to March; an ice road used to shorten the way to the church "
        "by two hours. Char, perch and burbot are fished. In 1958 the level was raised by sixty centimetres "
        "for a power station, and the old boathouses of the eastern bay have stood with their feet in the "
        "water since.",
    ),
    (
        "Lock keepers",
        "A lock keeper had a house, a garden, firewood, and a wage that had not changed since his "
        "grandfather's time. In return he was on duty from the breaking of the ice until November, by day "
        "and by night. He kept a book of every vessel: its master, its cargo, its toll. The books of the "
        "lower lock are complete but for the year 1849, when the keeper, Jens Tofte, used the pages to "
        "light his stove during the cholera. His daughter Ane kept the lock after him for thirty-four years "
        "without being appointed.",
    ),
    (
        "Backing up the archive's catalogue",
        "The catalogue is exported every night at two to a file named after the date, compressed, and "
        "copied to the machine in the museum. Copies are kept for thirty days, and those of the first of "
        "each month for ten years. To restore one, stop the service, move the damaged database aside, and "
        "run the import with the file as its only argument; it takes about twenty minutes. Check the number "
        "of records against the last line of the log before you start the service again. If they differ, "
        "ask before you go on.",
    ),
    (
        "The flood of 1916",
        "On the night of 11 November 1916 a storm from the north-west held the tide in the sound for nine "
        "hours. The water stood 2.4 metres above its mean, and the lower town of Ostervik was flooded up to "
        "the window sills. Two warehouses fell, one full of herring barrels, which were picked up along "
        "forty kilometres of coast. The lock gates held, though the lower pair was bent by a drifting "
        "schooner and had to be straightened on the spot. Nobody drowned, but the bakery's horse was never "
        "found.",
    ),
    (
        "Slate roofs of the province",
        "Slate from the quarries above Kallby is grey with a cast of green, and splits to about six "
        "millimetres. A roof of it weighs as much as sixty kilograms for each square metre, so the rafters "
        "must be strong. Each slate hangs on two nails, copper today and iron once, and it is nearly always "
        "the nails that fail first: a good slate outlives three sets of them. Roofers sound every old piece "
        "with a knuckle. One that rings can be hung again; one that answers dully has a crack and goes to "
        "the garden path.",
    ),
)

_EVIDENCE = tuple(
    Evidence(PassageId(f"anchors-{number}"), text, title) for number, (title, text) in enumerate(_TEXTS)
)


def iter_anchor_prompts(reserved: Sequence[str]) -> Iterator[Prompt]:
    """Yield the text as a reader's prompt, about 2,400 tokens, then ever shorter ones of fewer passages.

    ``reserved`` are the chat template's tokens.
    """
    for shown in range(len(_EVIDENCE), 0, -1):
        yield build_prompt(_QUESTION, _EVIDENCE[:shown], draw_mark, reserved, mark=_MARK)

"""Flickr's licences by number, as flickr.photos.licenses.getInfo lists them."""

import re

_CC = "https://creativecommons.org/licenses/{}/"
# Names are those of Creative Commons, shorter than Flickr's own and with the version that its links say.
_NAMES = {1: "BY-NC-SA", 2: "BY-NC", 3: "BY-NC-ND", 4: "BY", 5: "BY-SA", 6: "BY-ND"}
_NEWER = {11: "BY", 12: "BY-SA", 13: "BY-ND", 14: "BY-NC", 15: "BY-NC-SA", 16: "BY-NC-ND"}
LICENCES: dict[int, tuple[str, str]] = {
    0: ("All Rights Reserved", ""),
    7: ("No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
    8: ("United States Government Work", "http://www.usa.gov/copyright.shtml"),
    9: ("CC0 1.0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    10: ("Public Domain Mark 1.0", "https://creativecommons.org/publicdomain/mark/1.0/"),
    **{number: (f"CC {name} 2.0", _CC.format(f"{name.lower()}/2.0")) for number, name in _NAMES.items()},
    **{number: (f"CC {name} 4.0", _CC.format(f"{name.lower()}/4.0")) for number, name in _NEWER.items()},
}
_LINK = re.compile(r"creativecommons\.org/(licenses|publicdomain)/([a-z-]+)/(\d\.\d)", re.IGNORECASE)
_BY_KIND = {("zero", "1.0"): 9, ("mark", "1.0"): 10} | {
    (name.lower(), version): number
    for names, version in ((_NAMES, "2.0"), (_NEWER, "4.0"))
    for number, name in names.items()
}


def licence_of_link(link: str) -> int | None:
    """Flickr's number of a licence, by the link to its text; None for a link to anything else."""
    match = _LINK.search(link)
    return _BY_KIND.get((match[2].lower(), match[3])) if match else None

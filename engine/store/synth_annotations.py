"""The annotations of the sample collection, as JSON documents in the form of Flickr's API.

A document holds the answers of flickr.photos.getInfo, getExif, getAllContexts and flickr.photos.comments.getList about
one photo, each under its method's name; where Flickr would not answer, its error. Their nesting is that of answers
recorded from the API (https://www.flickr.com/services/api/); `count_faves` is an extra of flickr.photos.search.
"""

import time
from typing import Any, Final

from engine.store import synth_words as words
from engine.store.synth_facts import ALBUM_TOPICS, ALBUM_YEARS, Facts, draw_facts
from engine.store.synth_model import BLOCK
from engine.store.synth_world import FIELDS, WORDS, World, world

ANNOTATIONS_VERSION: Final = 1  # raise it when what is drawn, or how it is written, changes
GONE: Final = {"stat": "fail", "code": 1, "message": "Photo not found"}
HIDDEN: Final = {"stat": "fail", "code": 2, "message": "Permission denied"}
METHODS: Final = {
    "info": "flickr.photos.getInfo", "exif": "flickr.photos.getExif", "contexts": "flickr.photos.getAllContexts",
    "comments": "flickr.photos.comments.getList",
}  # fmt: skip
SECONDS: Final = ("1/30", "1/60", "1/125", "1/200", "1/250", "1/500", "1/1000", "1/15", "1/4", "2", "1/80", "1/2000")
APERTURES: Final = ("1.8", "2.8", "3.5", "4.0", "4.5", "5.6", "8.0", "11.0", "16.0")
SENSITIVITIES: Final = ("100", "200", "400", "800", "1600")
FLASHES: Final = ("Off, Did not fire", "Off, Did not fire", "Auto, Did not fire", "Auto, Fired", "No Flash")
ACCURACIES: Final = ("16", "16", "16", "15", "14", "13", "12", "11", "9", "6")


def documents(seed: int, number: int, count: int = BLOCK) -> list[bytes]:
    """The JSON documents (UTF-8) of the first `count` photos of block `number`, in their order."""
    import orjson

    writer = _Writer(draw_facts(seed, number), world(seed))
    return [orjson.dumps(writer.document(row)) for row in range(count)]


class _Writer:
    """Writes the documents of one block."""

    def __init__(self, facts: Facts, shared: World) -> None:
        self.facts, self.world = facts, shared
        self.has = [dict(zip(FIELDS, row, strict=True)) for row in facts.has.tolist()]
        self.picks = facts.picks.tolist()
        self.topic, self.main, self.place = facts.topic.tolist(), facts.main.tolist(), facts.place.tolist()
        self.owner, self.taken, self.posted = facts.owner.tolist(), facts.taken.tolist(), facts.posted.tolist()
        self.latitude, self.longitude = facts.latitude.tolist(), facts.longitude.tolist()
        self.views, self.favourites = facts.views.tolist(), facts.favourites.tolist()
        self.gone = facts.gone.tolist()
        self.licence = shared.licence[facts.owner].tolist()
        self.camera = shared.camera[facts.owner].tolist()
        self.cluster_words = shared.cluster_words[facts.main].tolist()

    def document(self, row: int) -> dict[str, Any]:
        """All that is said about one photo."""
        if self.gone[row]:
            return dict.fromkeys(METHODS.values(), GONE)
        # Flickr's own number of the photo: of the time it was posted.
        photo = str((self.posted[row] - 1_075_000_000) * 22 + row % 22)
        exif = self._exif(row, photo) if self.has[row]["exif"] else HIDDEN
        return {
            METHODS["info"]: {"photo": self._info(row, photo), "stat": "ok"},
            METHODS["exif"]: exif,
            METHODS["contexts"]: self._contexts(row, photo),
            METHODS["comments"]: {"comments": self._comments(row, photo), "stat": "ok"},
        }

    def word(self, row: int, pick: int) -> str:
        """A word of what the photo shows."""
        own: list[int] = self.cluster_words[row]
        common: int = self.topic[row] * WORDS + pick % WORDS
        return self.world.raw[common if pick % 3 else own[pick % len(own)]]

    def _info(self, row: int, photo: str) -> dict[str, Any]:
        has, picks, owner = self.has[row], self.picks[row], self.world.owners[self.owner[row]]
        posted = str(self.posted[row])
        info: dict[str, Any] = {
            "id": photo, "secret": f"{picks[9]:04x}{picks[10]:04x}{picks[11] % 256:02x}",
            "server": str(picks[9] % 4000), "farm": 1 + picks[9] % 8, "dateuploaded": posted, "isfavorite": 0,
            "license": str(self.licence[row]), "safety_level": "0", "rotation": 0, "originalformat": "jpg",
            "owner": owner,
            "title": {"_content": self._title(row) if has["title"] else ""},
            "description": {"_content": self._description(row) if has["description"] else ""},
            "visibility": {"ispublic": 1, "isfriend": 0, "isfamily": 0},
            "dates": {
                "posted": posted, "taken": _clock(self.taken[row], "%Y-%m-%d %H:%M:%S"), "takengranularity": "0",
                "takenunknown": "0" if has["exif"] or picks[4] % 2 else "1",
                "lastupdate": str(self.posted[row] + 40 * picks[10]),
            },
            "views": str(self.views[row]), "count_faves": str(self.favourites[row]),
            "comments": {"_content": str(len(self.facts.comments[row]) if has["comments"] else 0)},
            "notes": {"note": self._notes(row) if has["notes"] else []}, "people": {"haspeople": 0},
            "tags": {"tag": self._tags(row, photo, owner) if has["tags"] else []},
        }  # fmt: skip
        if has["geo"]:
            info["location"] = self._location(row)
            info["geoperms"] = {"ispublic": 1, "iscontact": 0, "isfriend": 0, "isfamily": 0}
        info["urls"] = {"url": [{"type": "photopage", "_content": _page(owner, photo)}]}
        info["media"] = "photo"
        return info

    def _title(self, row: int) -> str:
        kind, pick, other = self.picks[row][5] % 10, self.picks[row][6], self.picks[row][7]
        if kind < 4:
            return self.word(row, 3 * pick).title()
        if kind < 6:
            return f"{self.word(row, pick).title()} in {words.CITIES[self.place[row]][0]}"
        if kind < 7:
            return f"{self.word(row, pick).title()} &amp; {self.word(row, other)}"
        if kind < 9:
            return f"{('IMG_', 'DSC_', 'DSCF', 'P10')[other % 4]}{pick % 10_000:04d}"
        return words.PLAIN_TITLES[pick % len(words.PLAIN_TITLES)]

    def _description(self, row: int) -> str:
        pick, other = self.picks[row][7], self.picks[row][8]
        city, country = words.CITIES[self.place[row]][:2]
        form = words.SENTENCES[pick % len(words.SENTENCES)]
        near = (city, self.word(row, pick)) if form.startswith("Taken") else (self.word(row, pick), city)
        text = form.format(*near)
        if other % 3 == 0:
            text += f"\n\n{self.word(row, other).capitalize()}, {self.word(row, other // 5)} and all that, {country}."
        return text

    def _tags(self, row: int, photo: str, owner: dict[str, Any]) -> list[dict[str, Any]]:
        pick, author, name = self.picks[row][8], owner["nsid"], owner["username"]
        raw, clean = self.world.title if pick % 4 == 0 else self.world.raw, self.world.clean
        person = f"{self.owner[row]}-{photo}-"
        tags = [
            {"id": f"{person}{tag}", "author": author, "authorname": name, "raw": raw[tag], "_content": clean[tag],
             "machine_tag": 0}
            for tag in self.facts.tags[row]
        ]  # fmt: skip
        if self.has[row]["geo"] and pick % 8 == 0:
            machine = f"geo:lat={self.latitude[row]:.4f}"
        elif pick % 16 == 1:
            machine = words.MACHINE[pick % len(words.MACHINE)]
        else:
            return tags
        tags.append(
            {"id": f"{person}9{pick}", "author": author, "authorname": name, "raw": machine,
             "_content": machine.replace(".", ""), "machine_tag": 1}
        )  # fmt: skip
        return tags

    def _location(self, row: int) -> dict[str, Any]:
        place = self.place[row]
        city, country = words.CITIES[place][:2]
        return {
            "latitude": f"{self.latitude[row]:.6f}", "longitude": f"{self.longitude[row]:.6f}",
            "accuracy": ACCURACIES[self.picks[self.facts.of[row]][4] % len(ACCURACIES)], "context": "0",
            "locality": {"_content": city, "woeid": str(12_000 + place)},
            "country": {"_content": country, "woeid": str(23_424_000 + place)},
        }  # fmt: skip

    def _notes(self, row: int) -> list[dict[str, Any]]:
        notes = []
        for number in range(1 + self.picks[row][9] % 3):
            pick = self.picks[row][10] // (1 + number) + number
            author = self.world.owners[pick * 31 % len(self.world.owners)]
            text = words.NOTES[pick % len(words.NOTES)].format(self.word(row, pick))
            notes.append(
                {"id": f"7215760{pick:08d}{number}", "author": author["nsid"], "authorname": author["username"],
                 "x": str(pick % 400), "y": str(pick // 7 % 300), "w": str(20 + pick % 80), "h": str(20 + pick % 60),
                 "_content": text}
            )  # fmt: skip
        return notes

    def _exif(self, row: int, photo: str) -> dict[str, Any]:
        first, second, third, fourth = self.picks[row][:4]
        camera = self.world.cameras[self.camera[row]]
        seconds, aperture = SECONDS[first % len(SECONDS)], APERTURES[second % len(APERTURES)]
        lens = camera.lenses[fourth % len(camera.lenses)] if camera.lenses else "6-72mm"
        low, _, high = lens.removesuffix("mm").partition("-")
        taken = _clock(self.taken[row], "%Y:%m:%d %H:%M:%S")
        focal = int(low) + (fourth % (int(high) - int(low) + 1) if high else 0)
        entries = [
            ("IFD0", "Make", "Make", camera.make, ""),
            ("IFD0", "Model", "Model", camera.model, ""),
            ("ExifIFD", "ExposureTime", "Exposure", seconds, f"{_number(seconds):.3g} sec ({seconds})"),
            ("ExifIFD", "FNumber", "Aperture", aperture, f"f/{aperture}"),
            ("ExifIFD", "ISO", "ISO Speed", SENSITIVITIES[third % len(SENSITIVITIES)], ""),
            ("ExifIFD", "FocalLength", "Focal Length", f"{focal}.0 mm", f"{focal} mm"),
            ("ExifIFD", "DateTimeOriginal", "Date and Time (Original)", taken, ""),
            ("ExifIFD", "Flash", "Flash", FLASHES[third % len(FLASHES)], ""),
        ]  # fmt: skip
        if camera.lenses and fourth % 3 == 0:
            entries.append(("ExifIFD", "LensModel", "Lens Model", lens, ""))
        exif = [
            {"tagspace": space, "tagspaceid": 0, "tag": tag, "label": label, "raw": {"_content": raw}}
            | ({"clean": {"_content": clean}} if clean else {})
            for space, tag, label, raw, clean in entries
        ]
        return {"photo": {"id": photo, "camera": camera.name, "exif": exif}, "stat": "ok"}

    def _contexts(self, row: int, photo: str) -> dict[str, Any]:
        contexts: dict[str, Any] = {}
        if self.has[row]["albums"]:
            contexts["set"] = [self._album(row, album, photo) for album in self.facts.albums[row]]
        if self.has[row]["groups"]:
            contexts["pool"] = [self.world.groups[group] for group in self.facts.groups[row]]
        return contexts | {"stat": "ok"}

    def _album(self, row: int, album: int, photo: str) -> dict[str, Any]:
        if album < ALBUM_TOPICS:
            title = words.TOPICS[album][0]
        elif album < ALBUM_YEARS:
            title = f"Best of {2005 + album - ALBUM_TOPICS}"
        else:
            title = words.CITIES[album - ALBUM_YEARS][0]
        number = self.owner[row] * 300 + album
        return {
            "title": title, "id": f"7215760{number:010d}", "primary": photo, "view_count": str(number % 5000),
            "comment_count": "0", "count_photo": 12 + number % 300, "count_video": 0,
        }  # fmt: skip

    def _comments(self, row: int, photo: str) -> dict[str, Any]:
        if not self.has[row]["comments"]:
            return {"photo_id": photo}
        page = _page(self.world.owners[self.owner[row]], photo)
        comments = []
        for number, (who, after, pick) in enumerate(self.facts.comments[row]):
            author = self.world.owners[who]
            identity = f"{self.owner[row]}-{photo}-7215760{pick:05d}{number}"
            text = words.PHRASES[pick % len(words.PHRASES)].format(self.word(row, pick))
            comments.append(
                {"id": identity, "author": author["nsid"], "authorname": author["username"],
                 "datecreate": str(self.posted[row] + after), "permalink": f"{page}#comment{identity}",
                 "realname": author["realname"], "_content": text}
            )  # fmt: skip
        return {"photo_id": photo, "comment": comments}


def _page(owner: dict[str, Any], photo: str) -> str:
    return f"https://www.flickr.com/photos/{owner['path_alias'] or owner['nsid']}/{photo}/"


def _clock(seconds: int, form: str) -> str:
    return time.strftime(form, time.gmtime(seconds))


def _number(text: str) -> float:
    """A number that EXIF writes as a fraction."""
    above, _, below = text.partition("/")
    return int(above) / int(below or 1)

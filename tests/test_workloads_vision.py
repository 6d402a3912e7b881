"""Pictures: what is in them can be asked for, what is sent is a proper PNG, and what it costs."""

from __future__ import annotations

import base64
import hashlib
import random
import struct
import subprocess
import sys
import zlib
from functools import cache
from statistics import mean

import pytest
from pydantic import ValidationError
from workload_stand_ins import Model, says

from loadlib import image_tokens, scenario, tokens
from loadlib.catalog import resolve
from loadlib.errors import ScenarioError
from loadlib.lengths import TABLES
from loadlib.quality import Said, judged
from loadlib.scenario_spec import ModelSpec
from loadlib.simulator import images
from loadlib.simulator.prompts import Counter
from loadlib.workloads import build
from loadlib.workloads.drawing import draw, sheet
from loadlib.workloads.scenes import SCENES, compared
from loadlib.workloads.vision import _CAPTION, _QUESTION, Vision, VisionSpec

SMALL = ((128, 128),)  # drawn quickly


def vision(seed=42, name="vision", **given) -> Vision:
    made = build(name, VisionSpec(kind="vision", **{"size": SMALL, **given}), seed)
    assert isinstance(made, Vision)
    return made


@cache
def usual() -> Vision:
    """One album for all tests that need no other."""
    return vision()


def parts(prompt, kind):
    return [part for part in prompt.messages[-1]["content"] if part["type"] == kind]


def pngs(prompt):
    urls = [part["image_url"]["url"] for part in parts(prompt, "image_url")]
    return [base64.b64decode(url.removeprefix("data:image/png;base64,")) for url in urls]


def text(prompt):
    return "".join(part["text"] for part in parts(prompt, "text"))


def decoded(png):
    """(width, height, rows of filtered bytes) of a PNG, every checksum looked at."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, data, kinds = 8, b"", []
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(
            kind + body
        )
        kinds.append(kind)
        data += body if kind == b"IDAT" else b""
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
        at += 12 + length
    assert kinds[0] == b"IHDR" and kinds[-1] == b"IEND"  # noqa: PT018
    assert (depth, colour) == (8, 6)
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(data)
    assert unpacker.eof  # Adler-32 included
    assert unpacker.unused_data == b""
    row = 1 + 4 * width
    assert len(raw) == height * row
    return width, height, [raw[i : i + row] for i in range(0, len(raw), row)]


# -- scenes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SCENES)
def test_every_question_has_one_right_answer(kind):
    for seed in range(60):
        scene = SCENES[kind](random.Random(seed), (512, 512))
        answers = {one.answer for one in scene.questions}
        for one in scene.questions:
            assert judged(one.check, Said(one.answer)).passed, one
            assert "only." in one.text
            # an answer to another question of the scene is wrong, unless a letter stands for it
            for other in [x for x in answers - {one.answer} if f") {x}" not in one.text]:
                assert not judged(one.check, Said(other)).passed, (one, other)


@pytest.mark.parametrize("kind", SCENES)
def test_what_a_scene_asks_about_is_drawn(kind):
    """Names and numbers that answer stand in the picture, counts and differences do not."""
    for seed in range(20):
        scene = SCENES[kind](random.Random(seed), (512, 512))
        for one in scene.questions:
            if kind in ("chart", "timetable") and "exceed" not in one.text and "A)" not in one.text:
                assert f">{one.answer}<" in scene.svg, one


def test_shapes_are_counted_as_they_are_drawn():
    for seed in range(20):
        scene = SCENES["shapes"](random.Random(seed), (512, 512))
        drawn = scene.svg.count("<circle") + scene.svg.count("<polygon") + scene.svg.count("<rect")
        whole = next(one for one in scene.questions if "any kind" in one.text)
        assert int(whole.answer) == drawn - 1 == scene.measure  # one rectangle is the ground
        reds = scene.svg.count('fill="#d7263d"')
        [asked] = [one for one in scene.questions if "many red shapes" in one.text] or [None]
        assert (asked is None and reds == 0) or int(asked.answer) == reds


def test_pictures_are_compared_by_their_measure():
    scenes = [SCENES["chart"](random.Random(seed), (512, 512)) for seed in range(3)]
    most = max(scene.measure for scene in scenes)
    question = compared(scenes)
    assert question is not None
    assert scenes[int(question.answer) - 1].measure == most
    assert "Which image shows the chart with the highest single value?" in question.text
    assert compared([scenes[0], scenes[0]]) is None  # level


# -- PNG -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(128, 128), (384, 128), (512, 300)])
def test_a_picture_decodes_to_its_size_whatever_its_stamp(size):
    picture = draw(sheet(*size, "#336699", '<circle cx="60" cy="60" r="30" fill="red"/>'))
    plain, faint, *_ = made = [picture.stamped(n) for n in (0, 2**64 - 1, 5, 2**80 + 5)]
    assert images.size_of(plain) == size
    for png in made:
        width, height, rows = decoded(png)
        assert (width, height) == size
        assert rows[:-1] == decoded(plain)[2][:-1]
    assert made[2] == made[3]  # the last 64 bits count
    ground = bytes.fromhex("336699ff")
    assert decoded(plain)[2][-1] == b"\0" + ground * size[0]
    pixels = decoded(faint)[2][-1][1:]
    assert pixels[: 64 * 4] == bytes([0x2D, 0x60, 0x93, 0xFF]) * 64
    assert pixels[64 * 4 :] == ground * (size[0] - 64)


def test_no_two_requests_carry_the_same_pixels():
    seen = set()
    for n in range(40):
        for model in (Model("a"), Model("b")):
            _, _, rows = decoded(*pngs(usual().prompt(model, n)))
            seen.add(hashlib.sha256(b"".join(rows)).digest())
    assert len(seen) == 80


# -- prompts ---------------------------------------------------------------------------------------


def test_the_right_answer_passes_and_another_does_not():
    for n in range(40):
        prompt = usual().prompt(Model(), n)
        assert says(prompt, prompt.right.text)
        assert not says(prompt, "Something else.")
        assert not says(prompt, "")
        assert prompt.messages[-1]["content"][-1]["text"].endswith("only.")  # asked at the end
    assert vision(check=False).prompt(Model(), 0).check is None


def test_sizes_details_and_sorts_go_round():
    workload = vision(
        size=((128, 128), (256, 128)), detail=("high", "low"), pictures=("chart", "shapes")
    )
    made = [workload.prompt(Model(), n) for n in range(8)]
    assert [prompt.variant for prompt in made] == [
        f"{sort} {size} detail {detail}"
        for sort in ("chart", "shapes")
        for detail in ("high", "low")
        for size in ("128x128", "256x128")
    ]
    for prompt in made:
        [png], [part] = pngs(prompt), parts(prompt, "image_url")
        assert "{}x{}".format(*images.size_of(png)) in prompt.variant
        assert part["image_url"]["detail"] in prompt.variant
    assert usual().prompt(Model(), 0).variant == "chart"  # nothing else sets it apart


def test_several_images_are_numbered_and_the_question_is_about_one_or_all():
    workload = vision(images=3)
    compares = 0
    for n in range(40):
        prompt = workload.prompt(Model(), n)
        assert [part["text"] for part in parts(prompt, "text")[:-1]] == [
            "Image 1:\n", "Image 2:\n", "Image 3:\n",
        ]  # fmt: skip
        assert len(set(pngs(prompt))) == 3
        question = parts(prompt, "text")[-1]["text"]
        compares += "Which image shows" in question
        assert ("Which image" in question) != ("About image" in question)
    assert 5 < compares < 35


def test_text_stands_before_the_pictures_and_is_exact():
    workload = vision(text_tokens=500, system="Be brief.", images=2)
    for encoding in tokens.VOCABULARIES:
        prompt = workload.prompt(Model("gpt-4o", encoding), 3)
        assert prompt.messages[0] == {"role": "system", "content": "Be brief."}
        first, *_ = prompt.messages[-1]["content"]
        assert tokens.count(first["text"], encoding) == 500
        said = [prompt.messages[0], {"role": "user", "content": text(prompt)}]
        per_image = image_tokens.cost(128, 128, "high", "gpt-4o").tokens
        assert prompt.tokens == tokens.chat_tokens(said, encoding) + 2 * per_image


@pytest.mark.parametrize("name", ["gpt-4o-mini", "gpt-4o", "gemini-1.5-flash", "claude-3-haiku"])
@pytest.mark.parametrize("detail", ["low", "high", "auto"])
def test_the_simulator_counts_the_same_prompt(name, detail):
    model = resolve(ModelSpec(name=name))
    workload = vision(size=((256, 128),), images=2, detail=detail, pictures=("shapes",))
    prompt = workload.prompt(model, 1)
    messages = [dict(message) for message in prompt.messages]
    count = Counter().count(messages, model.encoding, model=model.wire)
    assert prompt.tokens == prompt.asked_tokens == count
    # estimates say so: other providers' rules, and a detail that the provider picks
    assert prompt.exact is (name.startswith("gpt") and detail != "auto")


def test_a_plan_is_never_cheaper_than_its_requests():
    for given in ({}, {"images": 16}, {"text_tokens": 300, "system": "Be brief. " * 20}):
        workload = vision(**given)
        for encoding in tokens.VOCABULARIES:
            model = Model("gpt-4o", encoding)
            most, _ = workload.expected_tokens(model)
            counts = [workload.prompt(model, n).tokens for n in range(60)]
            assert max(counts) <= most
            assert max(counts) > most - _QUESTION - _CAPTION * given.get("images", 1)


def test_the_same_seed_makes_the_same_requests_in_any_order():
    expected = [usual().prompt(Model(), n) for n in range(8)]
    again = vision()
    assert [again.prompt(Model(), n) for n in (7, 3, 5)] == [expected[n] for n in (7, 3, 5)]
    assert vision(7).prompt(Model(), 0) != expected[0]
    assert vision(name="other").prompt(Model(), 0).messages != expected[0].messages


SAME_ELSEWHERE = """
import sys; sys.path.insert(0, "tests")
from test_workloads_vision import Model, usual
prompt = usual().prompt(Model(), 3)
import hashlib
print(hashlib.sha256(repr((prompt.messages, prompt.right)).encode()).hexdigest())
"""


def test_another_process_makes_the_same_request(pytestconfig):
    done = subprocess.run(
        [sys.executable, "-c", SAME_ELSEWHERE],
        capture_output=True, text=True, cwd=pytestconfig.rootpath, timeout=60, check=True,
        env={"PYTHONHASHSEED": "7", "PATH": ""},
    )  # fmt: skip
    prompt = usual().prompt(Model(), 3)
    here = hashlib.sha256(repr((prompt.messages, prompt.right)).encode()).hexdigest()
    assert done.stdout.strip() == here


# -- models ----------------------------------------------------------------------------------------


def test_a_model_that_is_known_to_see_nothing_is_skipped():
    blind = resolve(ModelSpec(name="gpt-4"))
    assert not usual().serves(blind)
    assert usual().skipped(blind) == ("vision: skipped for gpt-4 (it takes no images)",)
    assert usual().expected_tokens(blind) == (0, 0)
    with pytest.raises(ValueError, match="gpt-4 takes none"):
        usual().prompt(blind, 0)


def test_of_an_unknown_model_nothing_is_assumed():
    own = resolve(ModelSpec(name="llava", base_url="http://127.0.0.1:8080/v1"))
    assert usual().serves(own)
    assert usual().skipped(own) == ()
    assert usual().prompt(own, 0).exact is False


def test_what_does_not_fit_the_window_is_skipped_and_said_so():
    workload = vision(size=((128, 128), (1024, 1024)), pictures=("shapes",), output_tokens=(50,))
    model = Model("gpt-4o", context_window=600)
    assert workload.skipped(model) == (
        "vision: 1 × 1024x1024 at high detail skipped for gpt-4o (its window is 600 tokens)",
    )
    sizes = [images.size_of(*pngs(workload.prompt(model, n))) for n in range(3)]
    assert sizes == [(128, 128)] * 3
    assert not workload.serves(Model("gpt-4o", context_window=300))
    with pytest.raises(ValueError, match="takes none"):
        workload.prompt(Model("gpt-4o", context_window=300), 0)


def test_a_small_window_gets_the_caps_that_fit():
    """As in every other workload: one that is drawn and does not fit is drawn again shorter."""
    sizes = (128, 128), (512, 512)
    workload = vision(size=sizes, pictures=("shapes",), output_tokens=TABLES["servegen-r1"][1])
    model = Model("gpt-4o", context_window=1_000)
    prompts = [workload.prompt(model, n) for n in range(200)]
    assert all(prompt.tokens + prompt.max_tokens <= 1_000 for prompt in prompts)
    assert len({prompt.max_tokens for prompt in prompts}) > 50
    _, cap = workload.expected_tokens(model)
    assert cap == pytest.approx(mean(prompt.max_tokens for prompt in prompts), rel=0.1)
    small, large = workload.skipped(model)
    assert small.startswith("vision: 1 × 128x128 at high detail: ")
    assert large.startswith("vision: 1 × 512x512 at high detail: ")
    assert large.endswith("% of the output caps skipped for gpt-4o (its window is 1,000 tokens)")
    assert workload.skipped(Model("gpt-4o", context_window=128_000)) == ()


# -- settings --------------------------------------------------------------------------------------

SCENARIO = """
version: 1
target: simulator
models: [gpt-4o]
workloads: {{v: {{kind: vision, {0}}}}}
load: [{{phase: measure, requests: 1, arrival: closed, users: 1}}]
"""

HOSTILE = [
    ("images: 0", "images"),
    ("images: 17", "should be 16 or less"),
    ("size: 64x64", "a side has 128 to 2048 pixels"),
    ("size: 99999x99999", "a side has 128 to 2048 pixels"),
    ("size: 4294967296x4294967296", "width x height"),
    ("size: 2048x600", "at most 3 times"),
    ("images: 5, size: [512x512, 2048x2048]", "5 pictures of 2048x2048 are 20,971,520 pixels"),
    ("size: [2048x2048, 2048x2048]", "at most 4,500,000 pixels, these have 8,388,608"),
    ("size: []", "empty list"),
    ("size: 512", "width x height in pixels, such as 512x512"),
    ("size: big", "width x height"),
    ("size: {w: 1}", "width x height"),
    ("detail: medium", "is not one of low, high, auto"),
    ("pictures: []", "pictures"),
    ("pictures: cats", "chart"),
    ("text_tokens: 0", "text_tokens"),
    ("prompt_tokens: 5", "prompt_tokens"),
]


@pytest.mark.parametrize(("setting", "message"), HOSTILE, ids=[row[0] for row in HOSTILE])
def test_hostile_settings_are_one_clear_line(setting, message):
    with pytest.raises(ScenarioError) as caught:
        scenario.parse(SCENARIO.format(setting), "s.yaml")
    said = str(caught.value)
    assert "s.yaml:5" in said
    assert message in said
    assert "\n" not in said


def test_settings_survive_being_written_and_read():
    given = "size: [512x512, 1024 × 768], detail: [low, high], images: 2, pictures: [chart]"
    plan = scenario.parse(SCENARIO.format(given))
    spec = plan.workloads["v"]
    assert spec.size == ((512, 512), (1024, 768))
    assert scenario.parse(scenario.to_yaml(plan)) == plan
    with pytest.raises(ValidationError):
        VisionSpec(kind="vision", size=((9, 9),))


MOST = [  # settings, pictures drawn, millions of their pixels
    ({"size": ((512, 512),)}, 12, 4),
    ({"size": ((1024, 1024),)}, 4, 5),
    ({"size": ((2048, 2048),)}, 4, 17),
    ({"size": ((2048, 2048), (512, 512)), "images": 4}, 16, 36),  # the most there can be
    ({"size": ((128, 128),), "pictures": ("chart",)}, 12, 1),
]


@pytest.mark.parametrize(("given", "pictures", "millions"), MOST)
def test_what_is_drawn_before_the_start_is_bounded(given, pictures, millions):
    workload = vision(**given)
    sorts = workload._album._sorts
    assert len(sorts) * workload._album.each == pictures
    drawn = sum(size[0] * size[1] for _, size in sorts) * workload._album.each
    assert millions - 1 < drawn / 1e6 <= millions


def test_a_request_stamps_and_never_draws(monkeypatch):
    workload = vision(images=2)
    workload.prompt(Model(), 0)

    def refuse(*_):
        raise AssertionError("nothing is drawn once a clock runs")

    monkeypatch.setattr("loadlib.workloads.pixels.draw", refuse)
    for n in range(1, 30):
        workload.prompt(Model(), n)


def test_bodies_are_bounded():
    """The most pixels there can be: half of it, not to draw so long."""
    workload = vision(size=((1024, 1024),), images=8, pictures=("receipt",))
    assert sum(map(len, pngs(workload.prompt(Model(), 0)))) < 1_000_000

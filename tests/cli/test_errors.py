"""Whatever a user gets wrong is answered by one line that names it, and exit code 2."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from occloom.cli.main import run
from occloom.data import kitti_files
from occloom.data.label_spaces import SEMANTIC_KITTI_GRID

FRAMES = ("000000", "000005")
SIZE = (32, 96)
Break = Callable[[Path], object]

DATA = "--data.root {root} --data.train 08 --data.val 08 --data.depth files --data.image-size 32 96"
TINY = "--model.trunk-width 8 --model.image-channels 8 --model.depth-bins 8 --model.volume-coarsening 8 8 8"
SMALL = f"{TINY} --model.class-coarsening 8 8 8 --model.volume-channels 8 --model.volume-blocks 1"
STEPS = "--train.steps 2 --train.save-every 1 --train.batch-size 1 --train.workers 0 --train.validate-every 0"
TRAIN = f"train baseline-town {DATA} {SMALL} {STEPS} --out {{root}}/new"
WINDOW = f"{TRAIN} --data.frames 0 -5"
AGAIN = f"train baseline-town {DATA} {SMALL} {STEPS} --out {{root}}/run"
EVALUATE = "evaluate {root}/run --root {root} --workers 0 --out {root}/results.json"
PREDICT = "predict {root}/run --root {root} --out {root}/predicted"
STEREO = "prepare depth --root {root} --workers 1"
LIDAR = "prepare depth --root {root} --workers 1 --source lidar"
FILES = "prepare depth --root {root} --workers 1 --source file --files {root}/depth/files --out {root}/taken"
REPORT = "prepare depth-report --root {root} --depth files"
SCORE = "score {root}/predictions {root}"
RENDER = "render {root}/predictions/sequences/08/predictions/000000.label --out {root}/picture.png"
TABLE = "table {root}/table.toml --out {root}/tables"

CALIB, POSES, TIMES = (f"sequences/08/{name}.txt" for name in ("calib", "poses", "times"))
PICTURE, RIGHT = (f"sequences/08/image_{camera}/000000.png" for camera in (2, 3))
LATER = "sequences/08/image_2/000005.png"
SCAN = "sequences/08/velodyne/000000.bin"
VOXELS, LABEL, INVALID = (f"sequences/08/voxels/000000.{kind}" for kind in ("bin", "label", "invalid"))
DERIVED = "sequences/08/voxels_derived/000000.npz"
DEPTH = "depth/files/sequences/08/000000.npy"
PREDICTION = "predictions/sequences/08/predictions/000000.label"
STEP = "run/step-000001"
RECIPE, WEIGHTS, PROGRESS = (f"{STEP}/{name}" for name in ("recipe.json", "ema.safetensors", "progress.pt"))
RESULTS = "tables/plain/seed-0/results-val.json"


def cut(name: str) -> Break:
    """Leave the first two thirds of a file."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[: (root / name).stat().st_size * 2 // 3])


def gone(name: str) -> Break:
    return lambda root: (root / name).unlink()


def write(name: str, data: str | bytes) -> Break:
    """Put other contents in place of a file."""

    def put(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data.encode() if isinstance(data, str) else data)

    return put


def folder(name: str) -> Break:
    """Put a folder in place of a file."""

    def put(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).mkdir(parents=True)

    return put


def picture(name: str, size: tuple[int, int]) -> Break:
    return lambda root: Image.new("RGB", (size[1], size[0])).save(root / name)


def depth(value: float, size: tuple[int, int] = SIZE) -> Break:
    return lambda root: np.save(root / DEPTH, np.full(size, value, np.float32))


def edit(name: str, **changes: object) -> Break:
    """Change values of a JSON file; None removes one."""

    def put(root: Path) -> None:
        content = json.loads((root / name).read_text()) | changes
        (root / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return put


def part(name: str, **changes: object) -> Break:
    """Change values of one part of the recipe."""
    return lambda root: edit(RECIPE, **{name: json.loads((root / RECIPE).read_text())[name] | changes})(root)


def rows(text: str) -> Break:
    return write("table.toml", text)


def nothing(root: Path) -> None:
    """The command alone is wrong."""


def emptied(name: str) -> Break:
    def put(root: Path) -> None:
        shutil.rmtree(root / name)
        (root / name).mkdir()

    return put


def accumulated(data: bytes | dict[str, np.ndarray]) -> Break:
    """Put accumulated labels in place of official ones: bytes, or arrays by name."""

    def put(root: Path) -> None:
        (root / LABEL).unlink()
        write(DERIVED, data if isinstance(data, bytes) else b"")(root)
        if not isinstance(data, bytes):
            np.savez(root / DERIVED, allow_pickle=False, **data)

    return put


ROW = '[[row]]\nname = "plain"\nrecipe = "baseline-town"\n'
LATIN = "Straße".encode("latin-1")

FILE_CASES: list[tuple[str, Break, str]] = [
    # command, what is done to the folder, the name that the line must give
    (TRAIN, emptied("sequences"), "sequences/08"),
    (TRAIN, emptied("sequences/08"), "sequences/08"),
    (TRAIN.replace("{root}/new", "{root}/file"), write("file", ""), "file"),
    *((command, breaking(CALIB), CALIB) for command in (TRAIN, LIDAR) for breaking in (gone, cut, folder)),
    (TRAIN, write(CALIB, LATIN), CALIB),
    (TRAIN, write(CALIB, b"\xff\xfe\x00"), CALIB),
    (TRAIN, write(CALIB, "P0: 1 2 3\n"), CALIB),
    *((WINDOW, breaking(name), name) for name in (POSES, TIMES) for breaking in (gone, cut, folder)),
    *((WINDOW, write(name, LATIN), name) for name in (POSES, TIMES)),
    *((TRAIN, breaking(PICTURE), PICTURE) for breaking in (cut, folder)),
    (TRAIN, write(PICTURE, "not a picture"), PICTURE),
    (TRAIN, picture(PICTURE, (30, 90)), DEPTH),
    (TRAIN, picture(LATER, (30, 90)), LATER),
    *((TRAIN, cut(name), name) for name in (VOXELS, LABEL, INVALID, SCAN)),
    *((TRAIN, gone(name), name) for name in (INVALID, DEPTH)),
    *((TRAIN, breaking(DEPTH), DEPTH) for breaking in (cut, folder)),
    *((TRAIN, depth(value), DEPTH) for value in (np.nan, -1.0, np.inf)),
    (TRAIN, depth(1.0, (30, 90)), DEPTH),
    (TRAIN, lambda root: np.save(root / DEPTH, np.ones(SIZE, np.int32)), DEPTH),
    (TRAIN, lambda root: np.save(root / DEPTH, np.array([{}]), allow_pickle=True), DEPTH),
    (TRAIN, lambda root: np.savez((root / DEPTH).open("wb"), np.ones(SIZE, np.float32)), DEPTH),
    (TRAIN, write(DEPTH, "text"), DEPTH),
    (TRAIN, write("depth/files/manifest.json", "[]"), "manifest.json"),
    (TRAIN, write("depth/files/manifest.json", LATIN), "manifest.json"),
    *((AGAIN, cut(f"{STEP}/{name}"), name) for name in ("model.safetensors", "recipe.json", "progress.pt")),
    (AGAIN, gone(f"{STEP}/model.safetensors"), "model.safetensors"),
    (AGAIN, gone(PROGRESS), "progress.pt"),
    (AGAIN, write("run/losses.csv", "step,loss\nfirst,2\n"), "losses.csv"),
    (AGAIN, write("run/losses.csv", LATIN), "losses.csv"),
    *((command, cut(RECIPE), RECIPE) for command in (EVALUATE, PREDICT)),
    (EVALUATE, write(RECIPE, LATIN), RECIPE),
    (EVALUATE, write(RECIPE, "[]"), RECIPE),
    (EVALUATE, edit(RECIPE, schema=99), RECIPE),
    *((EVALUATE, edit(RECIPE, **{key: None}), RECIPE) for key in ("recipe", "model", "data", "grid", "label_space")),
    (EVALUATE, edit(RECIPE, recipe="no-such"), "no-such"),
    (EVALUATE, edit(RECIPE, recipe=3), RECIPE),
    (EVALUATE, part("model", trunk_width=16), WEIGHTS),
    (EVALUATE, part("model", trunk_width="wide"), RECIPE),
    (EVALUATE, part("model", volume_coarsening=[3, 3, 3]), RECIPE),
    (EVALUATE, part("grid", voxel_size=[0, 0, 0]), RECIPE),
    (EVALUATE, part("label_space", empty=99), RECIPE),
    (EVALUATE, part("data", frames=[1]), RECIPE),
    (EVALUATE, cut(WEIGHTS), WEIGHTS),
    (EVALUATE, write("run/latest", LATIN), "run"),
    (EVALUATE, write("run/latest", "step-999999"), "run"),
    *(
        (EVALUATE, accumulated(data), DERIVED)
        for data in (b"", b"PK", {"a": np.zeros(8)}, {"label": np.zeros(8, np.uint16)})
    ),
    (EVALUATE, write(CALIB, "P0:" + 12 * " nan"), CALIB),
    (EVALUATE, lambda root: [gone(WEIGHTS)(root), gone(f"{STEP}/model.safetensors")(root)], "model.safetensors"),
    (EVALUATE, folder("results.json"), "results.json"),
    (EVALUATE.replace("results.json", "file/results.json"), write("file", ""), "file"),
    (EVALUATE.replace("{root}/run ", "{root}/nowhere "), nothing, "nowhere"),
    (EVALUATE.replace("{root}/run ", "{root}/sequences "), nothing, "sequences"),
    (PREDICT, write("predicted", ""), "predicted"),
    (PREDICT.replace("--root {root}", "--root {root}/nowhere"), nothing, "nowhere"),
    (STEREO, gone(RIGHT), RIGHT),
    (STEREO, picture(RIGHT, (30, 90)), RIGHT),
    *((STEREO, cut(name), name) for name in (PICTURE, RIGHT, CALIB)),
    (STEREO, emptied("sequences"), "sequences"),
    (STEREO, emptied("sequences/08"), "sequences"),
    (STEREO.replace("{root}", "{root}/nowhere"), nothing, "nowhere"),
    (f"{STEREO} --sequences 09", nothing, "sequences/09"),
    (f"{STEREO} --out {{root}}/sequences", nothing, "sequences"),
    (f"{STEREO} --out {{root}}/file", write("file", ""), "file"),
    (STEREO, write("depth/stereo-sgbm/manifest.json", "{}"), "manifest.json"),
    *((LIDAR, breaking(SCAN), SCAN) for breaking in (gone, cut)),
    (LIDAR, write(PICTURE, "not a picture"), PICTURE),
    *((FILES, depth(value), DEPTH) for value in (np.nan, -1.0)),
    (FILES, depth(1.0, (30, 90)), DEPTH),
    *((FILES, breaking(DEPTH), DEPTH) for breaking in (gone, cut)),
    (REPORT.replace("depth files", "depth nowhere"), nothing, "nowhere"),
    (REPORT, depth(np.nan), DEPTH),
    (SCORE, gone(PREDICTION), "predictions"),
    (SCORE, gone(LABEL), "08/000000"),
    (SCORE, emptied("predictions"), "predictions"),
    (SCORE.replace("predictions", "nowhere"), nothing, "nowhere"),
    *((SCORE, cut(name), name) for name in (PREDICTION, LABEL, INVALID)),
    *((SCORE, folder(name), name) for name in (PREDICTION, LABEL)),
    (SCORE, gone(INVALID), INVALID),
    (SCORE, write(PREDICTION, b"\x07\x00" * SEMANTIC_KITTI_GRID.num_voxels), PREDICTION),
    (f"{SCORE} --json {{root}}/run", nothing, "run"),
    (f"{SCORE} --json {{root}}/file/scores.json", write("file", ""), "file"),
    *((RENDER, breaking(PREDICTION), PREDICTION) for breaking in (gone, cut, folder)),
    (f"{RENDER} --truth {{root}}/{LABEL}", cut(LABEL), LABEL),
    (f"{RENDER} --truth {{root}}/nowhere.label", nothing, "nowhere.label"),
    (f"{RENDER} --image {{root}}/{PICTURE}", cut(PICTURE), PICTURE),
    (f"{RENDER} --root {{root}} --token 08/000001", nothing, "08/000001"),
    (f"{RENDER} --root {{root}} --token 000000", nothing, "000000"),
    (f"{RENDER} --root {{root}} --token 08/000000", cut(CALIB), CALIB),
    (RENDER.replace("picture.png", "picture.label"), nothing, "picture.label"),
    (RENDER.replace("picture.png", "run"), nothing, "run"),
    (TABLE, nothing, "table.toml"),
    (TABLE, folder("table.toml"), "table.toml"),
    *((TABLE, rows(text), "table.toml") for text in ("a = ", "", "row = 3", "shared = 3", 'split = "vall"\n' + ROW)),
    *((TABLE, rows(f"{first}\n{ROW}"), "table.toml") for first in ("[shared]\n'train.stepz' = 3", "shared = 3")),
    *((TABLE, rows(f"{ROW}{last}"), "table.toml") for last in ("overrides = 3", "seeds = 'one'", "color = 1", ROW)),
    *((TABLE, rows(f"{ROW}overrides = {{ {pair} }}"), "table.toml") for pair in ("'train.steps' = 'x'", "train = 1")),
    (TABLE, rows(f"{ROW}overrides = {{ 'train' = 1, 'train.steps' = 2 }}"), "table.toml"),
    (TABLE, rows(f"{ROW}overrides = {{ 'train.steps' = 0 }}"), "table.toml"),
    (TABLE, rows(f"{ROW}overrides = {{ 'data.frames' = [1] }}"), "table.toml"),
    (TABLE, rows(f"{ROW}seeds = []\n{ROW.replace('plain', 'Plain')}"), "table.toml"),
    (TABLE, write("table.toml", LATIN), "table.toml"),
    (TABLE, lambda root: [rows(ROW)(root), write(RESULTS, "{")(root)], RESULTS),
    (TABLE, lambda root: [rows(ROW)(root), write(RESULTS, "[]")(root)], RESULTS),
    (TABLE, lambda root: [rows(ROW)(root), write(RESULTS, '{"scores": 1}')(root)], RESULTS),
    ("town {root}/sequences --sequences 1", nothing, "sequences"),
    ("town {root}/file --sequences 1", write("file", ""), "file"),
    ("town {root}/old --sequences 1", write("old/town.json", "{"), "old"),
    ("demo {root}/file --sequences 2 --frames 1", write("file", ""), "file"),
]

OPTION_CASES = [
    # command, a word that the line must give
    ("scroe", "score"),
    ("train baseline-twon", "baseline-town"),
    ("benchmark baseline-twon", "baseline-town"),
    ("train no_module:recipe", "no_module"),
    ("train json:loads", "json:loads"),
    ("train os:getcwd", "os:getcwd"),
    ("train os:sep", "os:sep"),
    ("evaluate no-model", "no-model"),
    *(
        (f"{name} {option} 3", near)
        for name, option, near in (
            ("town {root}/x", "--seqences", "--sequences"),
            ("prepare depth --root x", "--worker", "--workers"),
            ("prepare depth-report --root x --depth y", "--sequence", "--sequences"),
            ("train baseline-town", "--train.stepz", "--train.steps"),
            ("train baseline-town", "--trian.steps", "--train.steps"),
            ("evaluate {root}/run", "--sampels", "--samples"),
            ("predict {root}/run --out x", "--tokenz", "--tokens"),
            ("score a b", "--protcol", "--protocol"),
            ("render --out x", "--truht", "--truth"),
            ("table x", "--uot", "--out"),
            ("benchmark baseline-town", "--repeat", "--repeats"),
            ("demo", "--picture", "--pictures"),
            ("doctor", "--dta", "--data"),
            ("recipes", "--all", "--all"),
        )
    ),
    ("prepare", "depth-report"),
    ("prepare detph --root x", "detph"),
    ("prepare depth", "--root"),
    ("prepare depth --root {root} --source file", "--files"),
    ("prepare depth --root {root} --source stereo", "stereo-sgbm"),
    ("score a", "PATH"),
    ("score {root}/predictions {root} --detail --distances 3 2", "--distances"),
    ("render --out {root}/x.png", "--truth"),
    ("render --out {root}/x.png --root {root}", "--token"),
    ("render --out {root}/x.png --errors --truth {root}/" + LABEL, "--errors"),
    (f"{RENDER} --panel-size 0 0", "panel"),
    ("train", "RECIPE"),
    ("evaluate", "CHECKPOINT"),
    *(
        (f"{TRAIN} --{option}", option.split()[0])
        for option in (
            "train.steps x",
            "train.steps",
            "train.precision 8-true",
            "data.image-size 3",
        )
    ),
    *(
        (f"{TRAIN} --{option}", word)
        for option, word in (
            ("train.steps 0", "train.steps"),
            ("train.seed -1", "train.seed"),
            ("train.workers -1", "train.workers"),
            ("train.learning-rate -1", "train.learning_rate"),
            ("train.accumulate 2", "train.batch-size"),
            ("data.image-size 0 96", "image_size"),
            ("data.frames -5", "frames"),
            ("data.depth None", "depth"),
            ("data.cameras", "cameras"),
            ("data.image-fit crop --data.image-size 999 96", "cropped"),
            ("data.label-scale 8", "baseline-town"),
            ("model.volume-coarsening 3 3 3", "baseline-town"),
            ("model.volume-coarsening 0 8 8", "volume_coarsening"),
            ("model.class-coarsening 3 3 3", "class_coarsening"),
            ("model.trunk-width 0", "trunk_width"),
            ("model.feature-stride 3", "feature_stride"),
            ("model.depth-bins 0", "depth_bins"),
            ("model.near 99", "near"),
            ("model.volume-channels 8 --model.volume-blocks 1 1", "volume_blocks"),
        )
    ),
    *(
        (f"{EVALUATE} --{option}", word)
        for option, word in (
            ("batch-size 0", "batch-size"),
            ("workers -1", "workers"),
            ("samples -1", "samples"),
            ("split vall", "split"),
            ("data.label-scale 2", "grid"),
        )
    ),
    (f"{PREDICT} --tokens 08/000001", "08/000001"),
    (f"{PREDICT} --data.label-scale 2", "grid"),
    (f"benchmark baseline-town {SMALL} --repeats 0", "repeats"),
    ("prepare depth --root {root} --workers 0", "workers"),
    *(
        (f"town {{root}}/x --{option}", word)
        for option, word in (
            ("sequences 0", "sequences"),
            ("frames 0", "frames"),
            ("image-size 0 96", "image"),
            ("workers 0", "workers"),
            ("first-sequence 99", "sequences"),
        )
    ),
    *(
        (f"demo {{root}}/demo --{option}", option.split()[0])
        for option in ("sequences 0", "frames 0", "workers 0", "pictures -1")
    ),
]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in SemanticKITTI's layout with depth, predictions, and a run on it."""
    root = tmp_path_factory.mktemp("good")
    base, rng, shape = root / "sequences" / "08", np.random.default_rng(0), SEMANTIC_KITTI_GRID.shape
    projections = np.array([[[60.0, 0, 48, offset], [0, 60, 16, 0], [0, 0, 1, 0]] for offset in (0, -32, 3, -29)])
    camera0_from_velodyne = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    kitti_files.write_calibration(base / "calib.txt", kitti_files.Calibration(projections, camera0_from_velodyne))
    kitti_files.write_poses(base / "poses.txt", np.stack([np.eye(4)] * 6))
    kitti_files.write_times(base / "times.txt", [0.1 * row for row in range(6)])
    for name in FRAMES:
        for camera in ("image_2", "image_3"):
            kitti_files.write_image(base / camera / f"{name}.png", rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8))
        filled = np.zeros(shape, bool)
        filled[:, :, 0] = True
        kitti_files.write_voxel_bits(base / "voxels" / f"{name}.bin", filled)
        kitti_files.write_voxel_bits(base / "voxels" / f"{name}.invalid", np.zeros(shape, bool))
        for file in (base / "voxels" / f"{name}.label", root / PREDICTION.replace("000000", name)):
            kitti_files.write_voxel_labels(file, 40 * filled.astype(np.uint16))
        kitti_files.write_points(base / "velodyne" / f"{name}.bin", np.array([[9.05, 0.05, -1.95, 0.5]]))
        file = root / DEPTH.replace("000000", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.full(SIZE, 9, np.float32))
    assert run(AGAIN.replace("{root}", str(root)).split()) == 0
    shutil.rmtree(root / "run" / "step-000002")  # as if the run had been stopped after its first step
    (root / "run" / "latest").write_text("step-000001\n")
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return shutil.copytree(good, tmp_path / "root")


def refused(command: str, root: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command prints."""
    capsys.readouterr()
    code = run(command.replace("{root}", str(root)).split())
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    assert error.startswith("occloom: ")
    assert "Traceback" not in error
    return error


def named(command: str) -> str:
    """The command's first words, as the name of a test."""
    return "-".join(command.replace("{root}", "").replace("/", "").split()[:3])


@pytest.mark.parametrize(("command", "damage", "name"), FILE_CASES, ids=[f"{named(c)}-{n}" for c, _, n in FILE_CASES])
def test_a_file_that_cannot_be_used_is_named_in_one_line(root, capsys, command, damage, name):
    damage(root)
    line = refused(command, root, capsys)
    assert name in line
    assert "; " in line, "the rule or the remedy follows"


@pytest.mark.parametrize(("command", "word"), OPTION_CASES, ids=[c.replace(TRAIN, "train") for c, _ in OPTION_CASES])
def test_an_option_that_cannot_be_used_is_named_in_one_line(root, capsys, command, word):
    assert word in refused(command, root, capsys)


@pytest.mark.parametrize(
    "command", [TRAIN, WINDOW, AGAIN, EVALUATE, PREDICT, STEREO, LIDAR, FILES, REPORT, SCORE, RENDER]
)
def test_the_same_commands_are_not_refused_without_a_mistake(root, command):
    assert run(command.replace("{root}", str(root)).split()) == 0

import numpy as np
import pytest
from PIL import Image

from ani_jax.data import files
from ani_jax.data.files import DataError, Tally, unwatched
from ani_jax.data.sets import faces
from tests.data.conftest import real, write_picture


def read(reader, folder, watch=unwatched):
    tally = Tally()
    splits = {name: [row for _, row in rows] for name, rows in reader(folder, tally, watch).items()}
    return splits, tally


@pytest.mark.parametrize(
    "name",
    [
        "61_1_20170109142408075.jpg.chip.jpg",
        "24_0_1_20170116220224657 .jpg.chip.jpg",
        "55_0_0_20170116232725357jpg.chip.jpg",
        "44_1_4_20170116235150272.pg.chip.jpg",
        "20_2_0_20170116235150272.jpg",
        "20_0_5_20170116235150272.jpg",
        "117_0_0_20170116235150272.jpg",
        "portrait.jpg",
    ],
)
def test_malformed_utkface_names_have_no_labels(name):
    assert faces.utkface_labels(name) is None


def test_utkface_leaves_out_twins_both_copies_malformed_names_and_damage(tmp_path):
    for number, name in enumerate(("1_0_0_1.jpg", "2_1_4_2.jpg.chip.jpg", "116_1_3_3.jpg", "3_0_1_4.jpg")):
        write_picture(tmp_path / "part" / name, number)
    # Equal pixels in other bytes are a twin too.
    write_picture(tmp_path / "9_1_2_5.jpg", 1)
    pixels = Image.open(tmp_path / "9_1_2_5.jpg")
    pixels.save(tmp_path / "9_1_2_6.jpg", format="PNG")
    write_picture(tmp_path / "61_1_7.jpg", 7)
    damaged = tmp_path / "5_0_0_8.jpg"
    write_picture(damaged, 8)
    damaged.write_bytes(damaged.read_bytes()[:100])
    seen = []
    splits, tally = read(faces.read_utkface, tmp_path, lambda items, title: seen.append(title) or items)
    assert seen == ["checking pictures"]
    kept = {example["file"]: example for example in splits["train"]}
    assert sorted(kept) == ["part/116_1_3_3.jpg", "part/1_0_0_1.jpg", "part/3_0_1_4.jpg"]
    assert {key: kept["part/116_1_3_3.jpg"][key] for key in ("age", "gender", "race")} == {
        "age": 116,
        "gender": 1,
        "race": 3,
    }
    assert kept["part/1_0_0_1.jpg"]["image"] == (tmp_path / "part" / "1_0_0_1.jpg").read_bytes()
    assert tally.skipped == {
        "malformed name": ["61_1_7.jpg"],
        "undecodable": ["5_0_0_8.jpg"],
        "exact twin": ["9_1_2_5.jpg", "9_1_2_6.jpg", "part/2_1_4_2.jpg.chip.jpg"],
    }


def test_too_many_damaged_pictures_stop_the_preparation(tmp_path):
    for number in range(11):
        (tmp_path / f"1_0_0_{number}.jpg").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"11 of 11 pictures cannot be decoded \(first: 1_0_0_0\.jpg\); at most 10"):
        read(faces.read_utkface, tmp_path)


@pytest.mark.parametrize("reader", [faces.read_utkface, faces.read_facescrub, faces.read_orl_faces])
def test_a_folder_of_other_pictures_is_refused(tmp_path, reader):
    write_picture(tmp_path / "holiday.jpg", 0)
    with pytest.raises(DataError, match=r"^manual_dir=.*: no picture in the official naming"):
        read(reader, tmp_path)


def write_fairface(folder, row="val/1.jpg,more than 70,Female,Latino_Hispanic,False"):
    header = "file,age,gender,race,service_test\n"
    train = (
        "train/1.jpg,3-9,Male,East Asian,True\ntrain/2.jpg,20-29,Female,White,False\ntrain/9.jpg,0-2,Male,Black,False\n"
    )
    (folder / "fairface_label_train.csv").write_text(header + train)
    (folder / "fairface_label_val.csv").write_text(header + row + "\n")
    for number, name in enumerate(("train/1.jpg", "train/2.jpg", "val/1.jpg")):
        write_picture(folder / "fairface-img-margin025-trainval" / name, number)


def test_fairface_reads_its_csv(tmp_path):
    write_fairface(tmp_path)
    splits, tally = read(faces.read_fairface, tmp_path)
    labels = {split: [(e["age"], e["gender"], e["race"]) for e in part] for split, part in splits.items()}
    assert labels == {"train": [(1, 0, 3), (3, 1, 0)], "validation": [(8, 1, 2)]}
    assert tally.skipped == {"missing picture": ["train/9.jpg"]}


def test_fairface_out_of_range_and_without_a_column(tmp_path):
    write_fairface(tmp_path, "val/1.jpg,old,Female,White,False")
    with pytest.raises(DataError, match=r"val\.csv: age 'old' in line 2 is out of range; allowed: 0-2, 3-9"):
        read(faces.read_fairface, tmp_path)
    (tmp_path / "fairface_label_val.csv").write_text("file,age,gender\nval/1.jpg,0-2,Male\n")
    with pytest.raises(DataError, match=r"val\.csv: no column 'race'"):
        read(faces.read_fairface, tmp_path)


@pytest.mark.parametrize("layout", ["{}s/faces/{}/{}.jpeg", "{}_faces/{}/{}.jpeg", "facescrub/{}ses/faces/{}/{}.png"])
def test_facescrub_reads_identity_and_gender_from_folders(tmp_path, layout):
    kinds = ("actress", "actor") if "ses" not in layout else ("actress", "actress")
    for kind, name in zip(kinds, ("Ann_Lee", "Bo_Kay")):
        path = layout.format(kind if "ses" not in layout else "actres", name, f"{name}_1_2")
        write_picture(tmp_path / path.replace("actresss", "actresses"), len(name))
    write_picture(tmp_path / "other" / "x.jpg", 9)
    splits, tally = read(faces.read_facescrub, tmp_path)
    found = {example["identity"]: example["gender"] for example in splits["train"]}
    assert found == {"Ann Lee": 1, "Bo Kay": int("ses" in layout)}
    assert tally.counts() == {"malformed name": 1}


def test_orl_faces_reads_pgm_folders_into_png(tmp_path):
    for person in (1, 12):
        for number in (1, 2):
            write_picture(tmp_path / f"s{person}" / f"{number}.pgm", person * number, mode="L")
    splits, _ = read(faces.read_orl_faces, tmp_path)
    assert [example["identity"] for example in splits["train"]] == ["s1", "s1", "s12", "s12"]
    for example in splits["train"]:
        assert example["image"].startswith(b"\x89PNG")
        original = np.asarray(Image.open(tmp_path / example["file"]))
        assert np.array_equal(files.decode(example["image"])[..., 0], original)


@pytest.mark.slow
def test_the_real_utkface_keeps_9572_of_9778_and_drops_the_marked_twins():
    import csv

    folder = real("utkface")
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = [faces.utkface_labels(row["file"]) for row in rows]
    assert len(rows) == 9778
    assert np.bincount([labels["gender"] for labels in named]).tolist() == [4372, 5406]
    splits, tally = read(faces.read_utkface, folder)
    marks = {row["file"]: row["exact_pixel_duplicate_of"] for row in rows if row["exact_pixel_duplicate_of"]}
    assert len(splits["train"]) == 9572
    assert set(tally.skipped) == {"exact twin"}
    assert sorted(tally.skipped["exact twin"]) == sorted({*marks, *marks.values()})
    assert len(tally.skipped["exact twin"]) == 206

from ani_jax.data import faces, official
from ani_jax.data.recipes import RECIPES


def test_every_official_file_of_a_recipe_has_a_checksum_and_every_reader_a_recipe():
    assert set(RECIPES) == set(official.SHA256) | set(faces.READERS)
    for sums in official.SHA256.values():
        assert all(len(value) == 64 and int(value, 16) for value in sums.values())


def test_a_recipe_names_its_files_its_origin_and_its_licence():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.obtain.startswith("http")
        assert recipe.licence.endswith(")")
        assert all(recipe.needs)
        assert "image" in recipe.features()

import numpy as np
import pytest
from made_states import normal, rotation, states

from alignment import report, training, wmatrix
from alignment.errors import BadInput, Mismatch, TooFewPrompts
from alignment.prompts import sha256
from alignment.training import Options, align

FEW = {"resamples": 50}


def by_name(document):
    return {row["name"]: row for row in document["methods"] + document["baselines"]}


@pytest.fixture
def pair():
    """500 prompts whose target states are the source's, turned, with noise of a tenth of the variance."""
    x = normal(500, 8) + 3
    y = 2 * x @ rotation(8) + np.sqrt(0.4) * normal(500, 8, seed=2)
    return states(x, model="a"), states(y, model="b", num_layers=6, layers=(4,))


def test_a_rotation_is_found_and_baselines_are_not_good(pair):
    rows = by_name(align([pair[0]], pair[1], Options(**FEW)).document)
    for name in ("procrustes", "ridge", "whitened", "cca"):
        # Signal 4 and noise 0.4 per dimension: 4 / 4.4 of the variance can be explained.
        assert rows[name]["explained_variance"]["value"] == pytest.approx(4 / 4.4, abs=0.03)
        assert rows[name]["cosine"]["value"] > 0.9 and rows[name]["top1"]["value"] > 0.6
        assert rows[name]["cosine"]["low"] < rows[name]["cosine"]["value"] < rows[name]["cosine"]["high"]
        assert rows[name]["prompts"] == 100
    assert rows["mean vector"]["explained_variance"]["value"] == pytest.approx(0, abs=1e-12)
    assert rows["mean vector"]["cosine_uncentred"]["value"] > 0.8
    assert rows["random rotation"]["top1"]["value"] < 0.1 and rows["random rotation"]["cosine"]["value"] < 0.5


def test_permuted_targets_give_chance(pair):
    source, target = pair
    mixed = states(target.values[np.random.default_rng(0).permutation(500)], model="b", num_layers=6, layers=(4,))
    document = align([source], mixed, Options(**FEW)).document
    assert document["chance_top1"] == 0.01
    for row in document["methods"]:
        assert row["top1"]["value"] < 0.05 and abs(row["cosine"]["value"]) < 0.15
        assert row["explained_variance"]["value"] < 0.05


def test_test_prompts_enter_nothing_but_the_judgement(pair):
    """Other states for the held-out prompts leave every map, setting and weight as it was."""
    source, target = pair
    first = align([source], target, Options(**FEW))
    parts = training.split(target.prompt_sha256)
    values = target.values.copy()
    values[list(parts.test)] = 1000 * normal(len(parts.test), 8, seed=9)[:, None]
    second = align([source], states(values, model="b", num_layers=6, layers=(4,)), Options(**FEW))
    for name, matrix in first.matrices.items():
        assert np.array_equal(matrix.maps[0].matrix, second.matrices[name].maps[0].matrix)
        assert matrix.facts["parameters"] == second.matrices[name].facts["parameters"]
        assert matrix.facts["quality"] != second.matrices[name].facts["quality"]


def test_settings_are_chosen_on_validation(pair):
    """Noise alone calls for the strongest ridge; a clean relation for the weakest."""
    noise = states(normal(500, 8, seed=7), model="b")
    options = Options(methods=("ridge",), **FEW)
    (strong,) = align([pair[0]], noise, options).matrices["ridge"].facts["parameters"]
    clean = states(pair[0].values[:, 0] @ normal(8, 8, seed=3), model="b")
    (weak,) = align([pair[0]], clean, options).matrices["ridge"].facts["parameters"]
    assert strong["alpha"] == 10 and weak["alpha"] <= 1e-6 and strong["lambda"] > weak["lambda"]


def test_duplicates_do_not_help(pair):
    """The same prompt many times is one prompt, also when the rows are of one text with one state."""
    source, target = pair
    hashes = [sha256(f"p{index % 250}") for index in range(500)]
    doubled = [states(s.values[np.arange(500) % 250], model=s.model, hashes=hashes) for s in (source, target)]
    document = align([doubled[0]], doubled[1], Options(**FEW)).document
    assert document["prompts"]["distinct"] == 250 and document["prompts"]["left_out"] == 250


def test_an_ensemble_of_two_sources():
    truth = normal(600, 4)
    one = states(truth @ rotation(4) + 0.5 * normal(600, 4, seed=2), model="one")
    two = states(truth @ rotation(4, seed=1) + 0.5 * normal(600, 4, seed=3), model="two")
    noise = states(normal(600, 4, seed=4), model="noise")
    goal = states(truth, model="goal")
    done = align([one, two, noise], goal, Options(methods=("procrustes",), **FEW))
    matrix = done.matrices["procrustes"]
    assert sum(matrix.weights) == pytest.approx(1) and matrix.weights[2] < 0.1
    alone = [row["explained_variance"]["value"] for row in matrix.facts["each_source_alone"]]
    assert matrix.facts["quality"]["explained_variance"]["value"] > max(alone) + 0.05
    given = align([one, two, noise], goal, Options(methods=("procrustes",), weights=(5, 3, 2), **FEW))
    assert given.matrices["procrustes"].weights == (0.5, 0.3, 0.2)
    with pytest.raises(BadInput, match="2 weights"):
        align([one, two, noise], goal, Options(weights=(0.5, 0.5), **FEW))


def test_weights_by_hand():
    # Truth 1 from predictions 3 and 0: a third of the first, exactly; from 3 and 2 the best of the simplex is all of 2.
    found = training._weights([np.array([[3.0]]), np.array([[0.0]])], np.array([[1.0]]), np.zeros(1), None)
    assert found == pytest.approx((1 / 3, 2 / 3))
    found = training._weights([np.array([[3.0]]), np.array([[2.0]])], np.array([[1.0]]), np.zeros(1), None)
    assert found == pytest.approx((0, 1))


def test_too_few_prompts_and_a_wide_map():
    with pytest.raises(TooFewPrompts, match="30 distinct prompts"):
        align([states(normal(30, 4))], states(normal(30, 4, seed=2)), Options(**FEW))
    (warning,) = align(
        [states(normal(100, 150))], states(normal(100, 4, seed=2)), Options(methods=("procrustes",), **FEW)
    ).document["warnings"]
    assert "80 prompts fit a map of width 150" in warning and "at least 188" in warning


def test_unlike_poolings_are_not_aligned(pair):
    with pytest.raises(BadInput, match="pooled differently"):
        align([states(normal(200, 4), pooling="mean")], states(normal(200, 4)), Options())
    with pytest.raises(BadInput, match="every token"):
        align([states(normal(200, 4), pooling="all")], states(normal(200, 4), pooling="all"), Options())


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_w_matrix_comes_back_and_maps_the_same(tmp_path, pair, suffix):
    source, target = pair
    done = align([source], target, Options(methods=("ridge",), **FEW)).matrices["ridge"]
    wmatrix.save(done, tmp_path / f"w.{suffix}")
    found = wmatrix.load(tmp_path / f"w.{suffix}")
    assert np.allclose(found.apply(source), done.apply(source), atol=1e-4)
    document = found.document()
    assert document["method"] == "ridge" and document["sources"][0]["model"] == "a"
    assert document["target"]["layers"] == [4] or document["target"]["layers"] == (4,)
    assert document["quality"] == done.facts["quality"] and len(document["prompts"]["fit_sha256"]) == 64
    assert document["parameters"][0]["lambda"] > 0 and document["created"] and document["nbridge"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "c"}, "model 'a'; these have model 'c'"),
        ({"pooling": "mean"}, "pooling 'last'; these have pooling 'mean'"),
        ({"num_layers": 5}, "number of blocks 4; these have number of blocks 5"),
        ({"layers": (3,)}, "fitted on layers 2 of a; these states are of layers 3 and lack 2"),
        ({"width": 9}, "hidden size 8; these have hidden size 9"),
    ],
)
def test_other_states_are_refused_with_both_values(pair, changes, words):
    matrix = align([pair[0]], pair[1], Options(methods=("procrustes",), **FEW)).matrices["procrustes"]
    width = changes.pop("width", 8)
    with pytest.raises(Mismatch, match=words) as caught:
        matrix.apply(states(normal(5, width), **{"model": "a", **changes}))
    assert caught.value.exit_code == 2
    with pytest.raises(Mismatch, match="1 source models; 2 were given"):
        matrix.apply(pair[0], pair[0])


def test_apply_takes_its_layer_from_among_others(pair):
    matrix = align([pair[0]], pair[1], Options(methods=("procrustes",), **FEW)).matrices["procrustes"]
    more = states(np.concatenate([normal(500, 8)[:, None], pair[0].values], axis=1), model="a", layers=(1, 2))
    assert np.array_equal(matrix.apply(more), matrix.apply(pair[0]))


def test_several_layers_side_by_side_and_averaged():
    layered = states(normal(300, 3 * 4).reshape(300, 3, 4), layers=(0, 1, 2))
    goal = states(layered.values.sum(axis=1), model="goal")
    options = Options(methods=("ridge",), layers=(-4, -3, -2), **FEW)
    wide = align([layered], goal, options)
    assert wide.document["sources"][0]["width"] == 12 and wide.document["sources"][0]["layers"] == (0, 1, 2)
    assert wide.document["methods"][0]["explained_variance"]["value"] > 0.999
    mean = align([layered], goal, Options(methods=("ridge",), layers="all", combine="mean", **FEW))
    assert mean.document["sources"][0]["width"] == 4
    assert mean.document["methods"][0]["explained_variance"]["value"] > 0.999


def test_the_report_names_baselines_warnings_and_approximation(tmp_path, pair):
    vectors = states(
        pair[0].values, model="api <b>", layers=("embeddings API",), approximation=True, pooling="embedding"
    )
    done = align([vectors, pair[0]], pair[1], Options(**FEW))
    assert done.document["approximation"] and done.matrices["ridge"].document()["approximation"]
    done.document["warnings"].append("80 prompts fit a map of width 150")
    page, text = (path.read_text() for path in report.write(done.document, tmp_path))
    for words in ("An approximation", "80 prompts", "mean vector", "random rotation", "Each source alone", "chance"):
        assert words in page and words in text
    assert "api &lt;b&gt;" in page and "http" not in page
    assert report.headline(done.document) in text
    assert page.count("<rect") == 3 * 6

import datetime
from pathlib import Path

import pytest

from planning.catalogs import Catalog, gpu_of_run, load, measured_on, recognise, stale_note
from planning.errors import BadCatalog, UnknownName

DAY = datetime.date(2026, 11, 22)


@pytest.fixture(scope="module")
def shipped() -> Catalog:
    return load()


def own(folder: Path, text: str) -> Path:
    path = folder / "own.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_guides_prices_are_there(shipped: Catalog) -> None:
    bought = {name: gpu.buy_usd.mode for name, gpu in shipped.gpus.items() if gpu.buy_usd}
    assert bought == {"rtx-4090": 1600, "rtx-6000-ada": 6800, "a100-40gb": 10000, "h100-80gb": 30000}
    assert shipped.build("rtx-4090-build").usd.mode == 2850
    # 1.10 (Lambda), 3.67 (GCP) and an eighth of 32.77 (AWS): lowest, median, highest
    rent = shipped.gpu("a100-40gb").rent_usd_per_hour
    assert rent is not None
    assert (rent.low, rent.mode, rent.high) == (1.10, 3.67, pytest.approx(4.09625))


def test_every_price_says_where_it_is_from_and_when(shipped: Catalog) -> None:
    for name, price in shipped.prices():
        assert price.source, name
        assert price.retrieved <= DAY
        # what is only remembered is marked as such
        assert price.verified is ("memory" not in price.source)
    for gpu in shipped.gpus.values():
        assert gpu.source
        assert gpu.verified is ("memory" not in gpu.source)


def test_an_unknown_gpu_is_answered_with_the_nearest(shipped: Catalog) -> None:
    with pytest.raises(UnknownName, match="Did you mean rtx-4090"):
        shipped.gpu("rtx-4900")
    with pytest.raises(UnknownName, match=r"Known: rtx-4090, .*mi300x"):
        shipped.gpu("zzz")
    assert shipped.gpu(" RTX_4090 ").name == "rtx-4090"


def test_old_prices_are_named_and_young_ones_are_not(shipped: Catalog) -> None:
    assert shipped.stale(datetime.date(2025, 7, 1)) == []
    oldest = shipped.stale(datetime.date(2026, 5, 19))  # the guide's prices are 91 days old
    assert {one.age_days for one in oldest if one.source == "the guide, §5.2"} == {91}
    assert not [one for one in shipped.stale(datetime.date(2026, 5, 18)) if one.source == "the guide, §5.2"]
    assert stale_note(shipped, datetime.date(2025, 7, 1)) is None
    assert "older than 90 days" in (stale_note(shipped, DAY) or "")


def test_ones_own_file_overrides_by_name(shipped: Catalog, tmp_path: Path) -> None:
    path = own(
        tmp_path,
        """
        [[gpus]]
        name = "rtx-4090"
        [[gpus.rent]]
        usd = { low = 0.2, mode = 0.3, high = 0.5 }
        provider = "our rack"
        term = "reserved"
        source = "contract 12"
        retrieved = 2026-11-01
        """,
    )
    gpu = load(path).gpu("rtx-4090")
    assert [price.provider for price in gpu.rent] == ["our rack"]
    assert gpu.buy == shipped.gpu("rtx-4090").buy
    assert gpu.bandwidth_gb_s == 1008


def test_the_variable_names_ones_own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own(tmp_path, '[[gpus]]\nname = "l4"\npower_w = 60\n')
    monkeypatch.setenv("NBRIDGE_CATALOG", str(path))
    made = load()
    assert made.gpu("l4").power_w == 60
    assert made.files[-1] == str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[gpus]]\nname = "l4"\npower_w = -5\n', r"\[\[gpus\]\] l4: power_w = -5"),
        ('[[gpus]]\nname = "l4"\nprice = 5\n', r"l4: price = 5"),
        ('[[gpus]]\nname = "mine"\n', r"mine: label"),
        ('[[gpus]]\nlabel = "x"\n', "has no name"),
        ("[[cards]]\n", "unknown table"),
        ("gpus = 4\n", "must be a list"),
        ("[[gpus]\n", "not valid TOML"),
        (
            '[[builds]]\nname = "b"\nlabel = "b"\ngpu = "l4"\npower_w = { low = 3, mode = 2, high = 4 }\n'
            'maintenance_usd_per_month = 1\nparts = []\nsource = "s"\nretrieved = 2026-01-01\n',
            "not in this order",
        ),
        (
            '[[gpus]]\nname = "l4"\nrent = [{ usd = -1, provider = "p", term = "spot", source = "s", '
            "retrieved = 2026-01-01 }]\n",
            r"rent.0.usd.* = -1: .*greater than or equal to 0",
        ),
    ],
)
def test_a_broken_file_is_refused_with_file_entry_and_value(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadCatalog, match=said) as refused:
        load(own(tmp_path, text))
    assert "own.toml" in str(refused.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadCatalog, match=r"no catalog file .*none\.toml"):
        load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Tesla T4", "t4"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("RTX4090", "rtx-4090"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "rtx-pro-6000"),
        ("NVIDIA RTX A6000", "a6000"),
        ("AMD Instinct MI355X", "mi355x"),
        ("Intel Gaudi3", "gaudi-3"),
        ("NVIDIA GB10", "gb10"),
        ("Orin (nvgpu)", "jetson-agx-orin"),
        ("NVIDIA Thor", "jetson-thor"),
        ("NVIDIA L40S-12Q", None),  # slices of a card
        ("GRID T4-8Q", None),
        ("GRID A100-2-10C", None),
        ("NVIDIA GeForce RTX 4090 D", None),  # other cards of the same number
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100", None),  # 40 or 80 GB
    ],
)
def test_a_drivers_name_is_recognised(shipped: Catalog, device: str, name: str | None) -> None:
    found = recognise(device, shipped)
    assert (found and found.name) == name


def test_a_run_says_its_gpu_in_the_plan_or_by_its_machine(shipped: Catalog) -> None:
    machine = {"environment": {"gpus": [{"name": "NVIDIA L4"}]}, "plan": {"cost": None}}
    planned = {**machine, "plan": {"cost": {"gpu": "h200"}}}
    assert [gpu and gpu.name for gpu in (gpu_of_run(machine, shipped), gpu_of_run(planned, shipped))] == ["l4", "h200"]
    assert gpu_of_run({"environment": {"gpus": []}, "plan": {}}, shipped) is None
    with pytest.raises(UnknownName):
        gpu_of_run({"plan": {"cost": {"gpu": "h2000"}}}, shipped)


def test_a_run_was_measured_on_its_machine_whatever_its_plan_prices(shipped: Catalog) -> None:
    plan = {"cost": {"gpu": "h200"}}
    on = {
        "NVIDIA L4": measured_on({"environment": {"gpus": [{"name": "NVIDIA L4"}]}, "plan": plan}, shipped),
        "unheard-of card": measured_on({"environment": {"gpus": [{"name": "X 9"}]}, "plan": plan}, shipped),
        "none": measured_on({"environment": {"gpus": []}, "plan": plan}, shipped),
    }
    assert {device: gpu and gpu.name for device, gpu in on.items()} == {
        "NVIDIA L4": "l4",
        "unheard-of card": "h200",
        "none": None,
    }


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("H100", "h100-80gb or h100-nvl"), ("a100", "a100-40gb or a100-80gb"), ("rtx-4900", "rtx-4090")],
)
def test_the_cards_of_a_chip_are_offered_first(shipped: Catalog, typed: str, offered: str) -> None:
    with pytest.raises(UnknownName, match=f"Did you mean {offered}"):
        shipped.gpu(typed)


def test_stale_prices_are_told_of_the_gpus_in_use(shipped: Catalog) -> None:
    assert stale_note(shipped, DAY, {"b200"}) is None  # it has no price
    assert "1 of the prices" in (stale_note(shipped, DAY, {"l4"}) or "")

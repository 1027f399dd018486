"""The explorer computes in JavaScript what the library computes in Python, and can be worked by keys."""

from __future__ import annotations

import re

import numpy as np
import pytest

import portable_bp
from portable_bp import cli, explorer, worked_example


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "explorer.html"
    path.write_text(explorer.page(), encoding="utf-8")
    return path


def test_the_page_needs_nothing_but_itself():
    html = explorer.page()
    assert re.findall(r"\b(?:src|href)=|@import|url\(|fetch\(|import\(", html) == []
    assert "/*css*/" not in html
    assert "/*js*/" not in html
    assert "/*data*/" not in html


def test_the_command_writes_it(tmp_path, capsys):
    path = tmp_path / "page.html"
    assert cli.run(["explain", "--html", str(path)]) == 0
    assert path.read_text(encoding="utf-8") == explorer.page()
    assert str(path) in capsys.readouterr().out
    assert cli.run(["explain", "--html", str(path), "--json"]) == 2
    assert cli.run(["explain", "--html", str(tmp_path)]) == 2


def compare(state):
    """The numbers of the page beside those of the library; both are float64."""
    net, c = state["net"], state["c"]
    sizes = [len(net["x"]), *(len(layer["b"]) for layer in net["params"])]
    ours = portable_bp.MLP(sizes, hidden=net["hidden"], loss=net["loss"], output=net["output"])
    params = tuple(
        (np.asarray(p["W"], "float64"), np.asarray(p["b"], "float64")) for p in net["params"]
    )
    x, y = np.asarray([net["x"]]), np.asarray([net["y"]], dtype="float64")
    # Some ten operations a number, each of them off by at most a few roundings of 1.1e-16.
    close = {"rtol": 1e-12, "atol": 1e-15}
    loss, grads = ours.loss_and_gradients(params, x, y)
    np.testing.assert_allclose(c["loss"], float(loss), **close)
    np.testing.assert_allclose(c["a"][-1], ours.forward(params, x)[0], **close)
    for delta, theirs in zip(ours.deltas(params, x, y), c["deltas"], strict=True):
        np.testing.assert_allclose(theirs, delta[0], **close)
    rate, biases = net["rate"], net["biases"]
    after = tuple(
        (W - rate * dW, b - rate * db if biases else b)
        for (W, b), (dW, db) in zip(params, grads, strict=True)
    )
    for (dW, db), (W, b), theirs, new in zip(
        grads, after, c["gradients"], c["updated"], strict=True
    ):
        np.testing.assert_allclose(theirs["W"], dW, **close)
        np.testing.assert_allclose(theirs["b"], db, **close)
        np.testing.assert_allclose(new["W"], W, **close)
        np.testing.assert_allclose(new["b"], b, **close)
    np.testing.assert_allclose(
        c["lossAfter"], float(ours.loss_and_gradients(after, x, y)[0]), **close
    )


STATE = "() => ({ net, c: compute(net), check: worstDifference(net, compute(net).gradients) })"


def test_it_computes_what_the_library_computes(visit, file):
    page = visit(file)
    for choose in (
        "load(examples[0], false)",
        "load(examples[1], false)",
        *(
            f"load({{...ownNetwork({depth}), hidden: '{hidden}'}}, true); commit(3); "
            f"[net.loss, net.output] = HEADS[{head}]"
            for depth, hidden, head in (
                (1, "tanh", 0),
                (3, "relu", 1),
                (8, "sigmoid", 2),
                (2, "identity", 0),
            )
        ),
    ):
        page.evaluate(choose)
        state = page.evaluate(STATE)
        compare(state)
        # The difference of two losses near 1 over 2e-5: roundoff alone is about 1e-11.
        assert state["check"]["worst"] < 1e-8, choose


def test_a_walk_by_keys_shows_the_published_numbers(visit, file):
    page = visit(file)
    heading = page.locator("#stage h2")
    assert heading.text_content() == "The input"
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert heading.text_content().startswith("The loss")
    assert "0.6718" in page.locator("#stage").text_content()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    run = worked_example.yehoshua()
    assert f"{run.output_after[0, 0]:.4f}" in page.locator("#stage").text_content()
    assert f"{run.updated[2][0][0, 0]:.4f}".rstrip("0") in page.locator("#picture").text_content()
    page.keyboard.press("ArrowRight")
    assert heading.text_content() == "The input"
    assert page.locator("#count").text_content().startswith("1 steps")
    assert page.evaluate("compute(net).a[3][0]") == pytest.approx(run.output_after[0, 0], rel=1e-12)
    page.locator("#rate").focus()
    page.keyboard.press("ArrowRight")
    assert heading.text_content() == "The input", "an arrow on a slider moves the slider"
    assert page.evaluate("net.rate") == pytest.approx(0.55)


def test_deep_sigmoids_fade_and_the_first_layer_is_the_palest(visit, file):
    page = visit(file)
    page.locator("#preset").select_option(label="A network of your own")
    page.locator("#depth").fill("8")
    for _ in range(9 + 1 + 9):
        page.locator("#next").click()
    opacities = page.evaluate(
        "[...document.querySelectorAll('#picture rect')]"
        ".map(r => +r.style.fill.match(/([\\d.]+)\\)/)[1])"
    )
    assert len(opacities) == 9
    assert opacities[0] < 0.5 * opacities[-1]
    assert page.evaluate("sizesOf(compute(net))[0]") < 1e-3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_narrow_and_readable_by_a_screen_reader(visit, file, scheme):
    page = visit(file, width=390, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    unnamed = page.evaluate(
        "[...document.querySelectorAll('input, select, button')].filter(e => !(e.labels?.length) && "
        "!e.textContent.trim()).map(e => e.id)"
    )
    assert unnamed == []
    assert page.locator("#stage").get_attribute("aria-live") == "polite"
    assert page.locator("#tables table").count() == 3
    colours = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours]
    assert (light[0] < light[1]) == (scheme == "light")

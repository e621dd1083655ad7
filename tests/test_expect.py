"""The expectation language: what it accepts, what it means, how it fails."""

from __future__ import annotations

import ast
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillhouse.errors import StillhouseError
from stillhouse.recipe.expect import check_names, parse


def holds(text: str, *seeds: dict[str, dict[str, float | None]]) -> bool:
    return parse(text).judge(seeds).holds


def arms(student: float, control: float) -> dict[str, dict[str, float | None]]:
    return {"student": {"accuracy": student}, "control": {"accuracy": control}}


class TestArithmetic:
    @pytest.mark.parametrize(
        ("left", "value"),
        [
            ("1 + 2 * 3", 7),
            ("(1 + 2) * 3", 9),
            ("8 - 3 - 2", 3),
            ("8 / 4 / 2", 1),
            ("-a.x + 1", -1),
            ("--a.x", 2),
            ("2 * -a.x", -4),
            ("1e-2 * 1.5E2 + .5", 2),
            ("a.x / b_1.group.3.worst_nll", 0.5),
        ],
    )
    def test_reads_as_arithmetic_does(self, left: str, value: float):
        numbers = {"a": {"x": 2.0}, "b_1": {"group.3.worst_nll": 4.0}}
        assert holds(f"{left} >= {value} - 1e-12", numbers)
        assert holds(f"{left} <= {value} + 1e-12", numbers)

    @given(
        st.recursive(st.integers(1, 9).map(str), lambda e: st.builds("({}{}{})".format, e, st.sampled_from("+-*"), e))
    )
    def test_agrees_with_python(self, sum_text: str):
        if len(sum_text) < 200 and _depth(sum_text) < 30:
            value = _oracle(sum_text)
            judged = parse(f"{sum_text} <= a.x").judge([{"a": {"x": 0.0}}])
            assert judged.left == value

    def test_the_four_comparisons_at_the_boundary(self):
        equal = arms(0.5, 0.5)
        assert [holds(f"student.accuracy {sign} control.accuracy", equal) for sign in ("<", "<=", ">", ">=")] == [
            False,
            True,
            False,
            True,
        ]


def _depth(text: str) -> int:
    deepest = now = 0
    for char in text:
        now += {"(": 1, ")": -1}.get(char, 0)
        deepest = max(deepest, now)
    return deepest


def _oracle(text: str) -> float:
    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body):
                return value(body)
            case ast.Constant(number) if isinstance(number, int):
                return number
            case ast.BinOp(left, op, right):
                a, b = value(left), value(right)
                return {ast.Add: a + b, ast.Sub: a - b, ast.Mult: a * b}[type(op)]
        raise AssertionError(ast.dump(node))

    return value(ast.parse(text, mode="eval"))


class TestSeeds:
    def test_compares_means_not_every_seed(self):
        seeds = [arms(0.9, 0.8), arms(0.7, 0.75)]
        judged = parse("student.accuracy > control.accuracy").judge(seeds)
        assert judged.holds
        assert (judged.left, judged.right) == (pytest.approx(0.8), pytest.approx(0.775))

    def test_by_se_counts_paired_differences(self):
        """The arms vary far more than their difference: an unpaired error would refuse this."""
        seeds = [arms(0.51, 0.50), arms(0.722, 0.70), arms(0.913, 0.90)]
        differences = [0.01, 0.022, 0.013]
        mean = sum(differences) / 3
        se = math.sqrt(sum((d - mean) ** 2 for d in differences) / 2) / math.sqrt(3)
        judged = parse("student.accuracy > control.accuracy by 2 se").judge(seeds)
        assert judged.margin == pytest.approx(mean)
        assert judged.se == pytest.approx(se)
        assert judged.holds
        assert not holds(f"student.accuracy > control.accuracy by {mean / se + 0.01} se", *seeds)
        assert holds(f"student.accuracy > control.accuracy by {mean / se - 0.01} se", *seeds)

    def test_by_se_looks_in_the_expected_direction(self):
        seeds = [arms(0.50, 0.60), arms(0.51, 0.62)]
        assert holds("student.accuracy < control.accuracy by 2 se", *seeds)
        assert not holds("student.accuracy > control.accuracy by 2 se", *seeds)
        judged = parse("student.accuracy < control.accuracy by 2 se").judge(seeds)
        assert judged.margin == pytest.approx(0.105)

    def test_one_seed_has_no_standard_error(self):
        judged = parse("student.accuracy > control.accuracy by 2 se").judge([arms(0.9, 0.1)])
        assert not judged.holds
        assert "two seeds" in judged.why

    def test_order_of_seeds_does_not_matter(self):
        rng = random.Random(0)
        seeds = [arms(rng.random(), rng.random()) for _ in range(5)]
        text = "student.accuracy > control.accuracy by 1 se"
        forward, backward = parse(text).judge(seeds), parse(text).judge(seeds[::-1])
        assert forward.se == pytest.approx(backward.se)
        assert forward.holds == backward.holds


class TestWhatIsMissing:
    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    @pytest.mark.parametrize("text", ["student.accuracy > 0", "student.accuracy < 2", "student.accuracy - 1 <= 0"])
    def test_a_number_that_is_none_never_holds(self, value: float | None, text: str):
        judged = parse(text).judge([arms(0.5, 0.5), {"student": {"accuracy": value}}])
        assert not judged.holds
        assert "student.accuracy is" in judged.why
        assert "seed 2 of 2" in judged.why

    def test_unknown_metric_offers_the_nearest(self):
        judged = parse("student.acuracy > 0").judge([arms(0.5, 0.5)])
        assert not judged.holds
        assert "'accuracy'" in judged.why

    def test_unknown_arm_offers_the_nearest(self):
        judged = parse("studnet.accuracy > 0").judge([arms(0.5, 0.5)])
        assert not judged.holds
        assert "'student'" in judged.why
        with pytest.raises(StillhouseError, match="'control'"):
            check_names(parse("student.accuracy > contol.accuracy"), ["student", "control"], ["accuracy"])

    def test_a_recipe_is_checked_before_it_runs(self):
        arms, metrics = ["student", "control"], ["accuracy", "nll"]
        check_names(parse("student.accuracy > control.accuracy by 2 se"), arms, metrics)
        check_names(parse("student.anything > 0"), arms, [])
        with pytest.raises(StillhouseError, match="'accuracy'"):
            check_names(parse("student.acuracy > 0"), arms, metrics)

    def test_division_by_zero_does_not_hold(self):
        judged = parse("student.accuracy / control.accuracy > 0").judge([arms(0.5, 0.0)])
        assert not judged.holds
        assert "division by zero" in judged.why

    def test_numbers_beyond_any_measure_do_not_hold(self):
        huge = "student.accuracy" + " * 1e90" * 4 + " > 0"
        assert "beyond" in parse(huge).judge([arms(1e90, 0.0)]).why
        assert "student.accuracy is 1e+300" in parse("student.accuracy > 0").judge([arms(1e300, 0.0)] * 3).why

    def test_no_seeds_is_an_error(self):
        with pytest.raises(StillhouseError, match="no seeds"):
            parse("student.accuracy > 0").judge([])


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "at", "said"),
        [
            ("", 1, "expected a number, an arm.metric or '('"),
            ("student.accuracy", 17, "expected one of < <= > >="),
            ("student.accuracy >", 19, "expected a number"),
            ("accuracy > 0", 1, "an arm and its metric"),
            ("student.accuracy == 1", 18, "'== 1'"),
            ("student.accuracy > 1 > 0", 22, "found '>'"),
            ("(student.accuracy > 1", 19, "expected ')'"),
            ("student.accuracy > 1 by two se", 25, "how many standard errors"),
            ("student.accuracy > 1 by 2", 26, "'se'"),
            ("student.accuracy > 1 by 2 se se", 30, "found 'se'"),
            ("student.accuracy > 1e999", 20, "too large"),
            ("student.accuracy > 1 by 1e999 se", 25, "too large"),
            ("student.accuracy > 2x", 20, "'2x'"),
            ("__import__('os').system('true') > 0", 12, "is not a number"),
        ],
    )
    def test_name_the_position_and_what_was_expected(self, text: str, at: int, said: str):
        with pytest.raises(StillhouseError) as error:
            parse(text)
        assert f"at character {at}:" in str(error.value)
        assert said in str(error.value)

    @pytest.mark.parametrize(
        "text", ["(" * 200 + "a.b" + ")" * 200 + " > 1", "-" * 400 + "a.b > 1", "1 + " * 2000 + "1 > 0"]
    )
    def test_depth_and_length_are_bounded(self, text: str):
        with pytest.raises(StillhouseError, match=r"inside each other|characters"):
            parse(text)

    @given(st.text(max_size=60) | st.text(alphabet="ab.1 ()<>=+-*/byse", max_size=60))
    def test_any_text_parses_or_is_refused(self, text: str):
        try:
            expectation = parse(text)
        except StillhouseError:
            return
        assert expectation.judge([{}]).why

"""cache_result on methods: instances, classes, descriptors, decorators around it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from counting import counted

import perfopt
from perfopt.cache import cache_result


class Thing:
    @cache_result
    def method(self, x: Any) -> list[Any]:
        return [x]


def test_methods_count_per_instance() -> None:
    one, two = Thing(), Thing()
    assert one.method(1) is one.method(1)
    assert one.method(1) is not two.method(1)
    assert Thing.method(one, 1) is one.method(1)
    bound = one.method
    assert bound(1) is one.method(1)
    assert one.method(x=1) is one.method(1)


def test_a_function_that_is_also_an_attribute_of_a_class() -> None:
    @cache_result
    def total(x: Any, y: int = 0) -> float:
        return float(np.sum(x)) + y

    class Owner:
        kept = total

        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        @cache_result
        def named(x: Any) -> Any:  # type: ignore[misc]
            return x

    assert total(5) == Owner.kept(5) == 5
    assert Owner.named("a") == "a"
    array = np.ones(3)
    assert (total(array), total(x=array, y=1)) == (3, 4)
    array[:] = 5
    assert (total(array), total(x=array, y=1)) == (15, 16), "other first arguments still count by content"
    size = total.cache_info().currsize  # type: ignore[attr-defined]
    owner = Owner()
    gone = weakref.ref(owner)
    with pytest.raises(TypeError, match=r"unsupported operand|must be|float"):
        owner.kept()
    assert owner.named() is owner
    del owner
    Owner.named.cache_clear()  # type: ignore[attr-defined]
    assert gone() is None
    assert total.cache_info().currsize == size  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="owner must be a class or None, not int"):
        total.__set_name__(3, "x")  # type: ignore[attr-defined]


def test_the_classes_of_a_method_are_held_weakly() -> None:
    @cache_result
    def shared(self: Any) -> int:
        return 1

    def use() -> weakref.ref[type]:
        owner = type("Owner", (), {"m": shared, "__eq__": lambda *_: True})
        one, two = owner(), owner()
        assert [one.m(), two.m(), one.m()] == [1, 1, 1]
        return weakref.ref(owner)

    owners = [use(), use()]
    assert shared.cache_info()[:2] == (2, 4)  # type: ignore[attr-defined]
    gc.collect()
    assert [owner() for owner in owners] == [None, None]
    assert shared.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_an_instance_is_not_kept_alive() -> None:
    Thing.method.cache_clear()  # type: ignore[attr-defined]
    thing, other = Thing(), Thing()
    for x in range(10):
        thing.method(x)
        other.method(x)
    assert Thing.method.cache_info().currsize == 20  # type: ignore[attr-defined]
    gone = weakref.ref(thing)
    del thing
    assert gone() is None
    assert Thing.method.cache_info().currsize == 10  # type: ignore[attr-defined]
    assert Thing.method.cache_info().evictions == 0  # type: ignore[attr-defined]
    del other
    assert Thing.method.cache_info().currsize == 0  # type: ignore[attr-defined]


def test_a_new_instance_at_an_old_address_is_another() -> None:
    seen = set()
    for i in range(200):
        thing = Thing()
        thing.tag = i  # type: ignore[attr-defined]
        result = thing.method(0)
        assert result == [0]
        result.append(i)
        assert thing.method(0) == [0, i]
        seen.add(id(thing))
        del thing, result
    if len(seen) == 200:
        pytest.skip("no address was used again (a sanitizer's allocator keeps them back)")


def test_an_instance_with_its_own_equality_counts_by_identity() -> None:
    class Same:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

        @cache_result
        def method(self) -> list[int]:
            return []

    one, two = Same(), Same()
    assert one.method() is one.method()
    assert one.method() is not two.method()
    gone = weakref.ref(one)
    del one
    assert gone() is None
    assert Same.method.cache_info().currsize == 1  # type: ignore[attr-defined]


def test_slots_without_weak_references_are_refused() -> None:
    class Tight:
        __slots__ = ()

        @cache_result
        def method(self) -> int:
            return 1

    with pytest.raises(TypeError, match=r"Tight cannot be weakly referenced; add '__weakref__'"):
        Tight().method()


def test_identity_objects_as_plain_arguments_are_held_weakly() -> None:
    class Session:
        pass

    function, calls = counted()
    session, other = Session(), Session()
    function(session, 1)
    function(session, 1)
    function([other, session], {"a": session})
    assert len(calls) == 2
    calls.clear()
    del session
    assert function.cache_info().currsize == 0
    function(other)
    assert function.cache_info().currsize == 1


def test_class_and_static_methods_in_either_order() -> None:
    calls = []

    class Tool:
        @classmethod
        @cache_result
        def a(cls, x: int) -> str:
            calls.append("a")
            return cls.__name__

        @cache_result
        @classmethod
        def b(cls, x: int) -> str:
            calls.append("b")
            return cls.__name__

        @staticmethod
        @cache_result
        def c(x: int) -> int:
            calls.append("c")
            return x

        @cache_result("d", max_size=3)
        @staticmethod
        def d(x: int) -> int:
            calls.append("d")
            return x

    class Sub(Tool):
        pass

    for _ in range(2):
        assert [Tool.a(1), Tool().a(1), Sub.a(1), Tool.b(1), Sub().b(1)] == ["Tool", "Tool", "Sub", "Tool", "Sub"]  # type: ignore[operator]
        assert [Tool.c(1), Tool().c(1), Tool.d(1), Sub().d(1)] == [1, 1, 1, 1]
    assert sorted(calls) == ["a", "a", "b", "b", "c", "d"]


def test_a_method_whose_value_dies_with_its_instance() -> None:
    log = []

    class Noisy:
        def __del__(self) -> None:
            log.append("value")

    class Owner:
        @cache_result
        def make(self) -> Noisy:
            return Noisy()

    owner = Owner()
    owner.make()
    assert log == []
    del owner
    assert log == ["value"]


def test_the_cache_may_go_before_the_instance() -> None:
    def scope() -> tuple[Thing, list[weakref.ref[Any]]]:
        class Local:
            @cache_result
            def method(self, x: int) -> int:
                return x

        local = Local()
        local.method(1)
        function, _ = counted()
        thing = Thing()
        function(thing)
        return thing, [weakref.ref(Local), weakref.ref(local), weakref.ref(thing)]

    thing, gone = scope()
    gc.collect()
    assert [reference() for reference in gone] == [None, None, thing]
    del thing
    gc.collect()
    assert gone[2]() is None


@pytest.mark.parametrize(
    "outer", [perfopt.profile_operation("outer"), perfopt.optimize_memory], ids=["profile", "memory"]
)
def test_a_method_behind_another_decorator_is_still_a_method(outer: Any) -> None:
    """An instance counts by identity and is held weakly, also where its class defines equality."""

    class Model:
        def __init__(self, weight: int) -> None:
            self.weight = weight

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

        @outer
        @cache_result("scaled")
        def scaled(self, factor: int) -> int:
            return self.weight * factor

    first, second = Model(2), Model(3)
    assert [first.scaled(10), second.scaled(10), first.scaled(10)] == [20, 30, 20]
    gone = weakref.ref(first)
    del first
    gc.collect()
    assert gone() is None

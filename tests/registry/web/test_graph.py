"""The lineage picture: both ways from the subject, nearest first, nothing over another."""

from itertools import combinations

from registry.records.answers.auditing import LineageNode
from registry.web.graph import COLUMNS, HEIGHT, WIDTH, Link, draw, nearest


def node(ref: str) -> LineageNode:
    return LineageNode(ref=ref, kind=ref.split("/")[0], digest="", status="registered")


def links(*pairs: tuple[str, str]) -> list[Link]:
    return [Link(*pair) for pair in pairs]


def large() -> tuple[list[LineageNode], list[Link]]:
    """40 data versions, 60 experts of two each, 50 snapshots of 8 experts, 50 builds."""
    nodes = [
        node(f"{kind}/{n}")
        for kind, count in (("data", 40), ("expert", 60), ("snapshot", 50), ("build", 50))
        for n in range(count)
    ]
    edges = [(f"expert/{n}", f"data/{(n * 7 + k) % 40}") for n in range(60) for k in range(2)]
    edges += [(f"snapshot/{n}", f"expert/{(n * 11 + k) % 60}") for n in range(50) for k in range(8)]
    edges += [(f"build/{n}", f"snapshot/{n}") for n in range(50)]
    return nodes, links(*edges)


def test_two_hundred_nodes_stand_apart_in_columns_from_data_to_release() -> None:
    nodes, edges = large()
    picture = draw(nodes, edges)
    assert len(picture.boxes) == 200
    for one, other in combinations(picture.boxes, 2):
        assert abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
    columns = {box.kind: box.x for box in picture.boxes}
    assert sorted(columns, key=lambda kind: columns[kind]) == [
        kind for kind in COLUMNS if kind in columns
    ]
    assert all(
        0 <= box.x <= picture.width - WIDTH and 0 <= box.y <= picture.height - HEIGHT
        for box in picture.boxes
    )


def test_neighbours_are_drawn_near_each_other() -> None:
    nodes, edges = large()
    ordered = {box.ref: box.y for box in draw(nodes, edges).boxes}
    plain = {node.ref: int(node.ref.split("/")[1]) * 35 for node in nodes}

    def stretch(height: dict[str, int]) -> int:
        return sum(abs(height[a] - height[b]) for a, b in edges)

    assert stretch(ordered) < 0.8 * stretch(plain)


def test_a_line_over_a_column_passes_no_box() -> None:
    nodes = [node(ref) for ref in ("data/x", "expert/a", "expert/b", "build/1", "build/2")]
    edges = links(
        ("build/1", "data/x"),
        ("expert/a", "data/x"),
        ("build/1", "expert/a"),
        ("build/2", "expert/b"),
    )
    picture = draw(nodes, edges)
    over = next(line for line in picture.lines if line.ends == ("data/x", "build/1"))
    level = float(over.path.split("H")[0].split()[-1])
    assert all(not box.y <= level <= box.y + HEIGHT for box in picture.boxes)


def test_the_walk_goes_up_and_down_but_not_down_and_up_again() -> None:
    edges = links(
        ("expert/a", "data/x"),
        ("expert/b", "data/x"),
        ("build/1", "expert/a"),
        ("build/2", "expert/b"),
    )
    assert set(nearest("expert/a", edges)) == {"expert/a", "data/x", "build/1"}
    assert set(nearest("data/x", edges)) == {"data/x", "expert/a", "expert/b", "build/1", "build/2"}


def test_where_there_is_too_much_the_nearest_are_drawn() -> None:
    edges = links(*((f"expert/{n}", "data/x") for n in range(300)), ("data/x", "source/y"))
    near = nearest("data/x", edges, 50)
    assert (len(near), near[0], near[1]) == (50, "data/x", "source/y")

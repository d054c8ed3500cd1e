"""The cheapest pairing of rows with columns, exactly: what matches predictions with true objects.

Shortest augmenting paths (Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
assignment problems", Computing 38, 1987): rows are paired one after the other, each along the path of least cost
that frees a column, and prices of rows and columns keep all other paths from being cheaper.
"""

import numpy as np
from jaxtyping import Float, Float64, Int64


def assign(cost: Float[np.ndarray, "R C"]) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """Pair rows with columns so that the costs sum to the least; K = min(R, C), and no row or column has two.

    Returns:
        Rows in rising order and the column of each, as SciPy's `linear_sum_assignment` does.

    Raises:
        ValueError: If a cost is infinite or no number.
    """
    if not np.isfinite(cost).all():
        raise ValueError("Expected finite costs.")
    if cost.shape[0] > cost.shape[1]:
        columns, rows = assign(cost.T)
        order = rows.argsort()
        return rows[order], columns[order]
    return np.arange(len(cost)), _columns_of_rows(cost.astype(np.float64))


def _columns_of_rows(cost: Float64[np.ndarray, "R C"]) -> Int64[np.ndarray, " R"]:
    """The column of each row, where there are at least as many columns."""
    rows, columns = cost.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for start in range(rows):
        # Dijkstra over columns: how much more than the prices say it costs to reach each, and from which column.
        distance, previous = np.full(columns, np.inf), np.full(columns, -1)
        reached = np.zeros(columns, dtype=bool)
        column, row, so_far = -1, start, 0.0
        while row >= 0:
            through = so_far + cost[row] - row_price[row] - column_price
            closer = ~reached & (through < distance)
            distance[closer], previous[closer] = through[closer], column
            column = int(np.where(reached, np.inf, distance).argmin())
            so_far = distance[column]
            reached[column], row = True, row_of[column]
        row_price[start] += so_far
        settled = np.flatnonzero(reached & (row_of >= 0))
        row_price[row_of[settled]] += so_far - distance[settled]
        column_price[settled] -= so_far - distance[settled]
        while column >= 0:
            before = previous[column]
            row_of[column] = row_of[before] if before >= 0 else start
            column = before
    column_of = np.empty(rows, dtype=np.int64)
    taken = np.flatnonzero(row_of >= 0)
    column_of[row_of[taken]] = taken
    return column_of

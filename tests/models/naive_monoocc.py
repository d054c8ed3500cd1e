"""MonoOcc's parts as formulas over a released state dict: slow, explicit, free of everything of occloom.

Written from reference monoocc 3 to 4e (key names, layer order, indices), for comparison only.
"""

import itertools
import math

import torch
import torch.nn.functional as F


def table(path):
    """Shapes by name of a file of reference state_dicts."""
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return {name: tuple(int(n) for n in shape.strip("[]").split(",") if n) for name, shape, *_ in rows}


def random_state(shapes, *, scale=0.2, seed=0):
    """Numbers of which every one matters; running variances stay positive."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = scale * torch.randn(shape, generator=generator)
        state[name] = value.abs() + 0.5 if name.endswith("running_var") else value
    return state


def part(state, prefix):
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}


def linear(x, state, name):
    return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def layer_norm(x, state, name):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def batch_norm(x, state, name):
    return F.batch_norm(
        x, state[f"{name}.running_mean"], state[f"{name}.running_var"], state[f"{name}.weight"], state[f"{name}.bias"]
    )


def sine(row, column, channels, turn):
    """One cell's position: `turn` is the angle of one step along each axis."""
    half = channels // 2
    values = []
    for place, step in ((row, turn[0]), (column, turn[1])):
        for i in range(half):
            angle = (place + 1) * step / 10000 ** (2 * (i // 2) / half)
            values.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    return torch.tensor(values)


def joint_views(state, views):
    """SurroundDepth's transformer on (V, C, h, w), reference 4e."""
    count, channels, height, width = views.shape
    small_h, small_w = -(-height // 2), -(-width // 2)
    tokens, position = [], []
    for view, i, j in itertools.product(range(count), range(small_h), range(small_w)):
        cell = views[view, :, 2 * i, 2 * j] * state["sep_conv.conv1.weight"].flatten()
        tokens.append(state["sep_conv.pointwise.weight"][:, :, 0, 0] @ cell)
        position.append(sine(i, j, channels, (1.0, 1.0)))
    x, pos = torch.stack(tokens), torch.stack(position)
    for block in range(3):
        inner = part(state, f"decoder.{block}")
        normed = layer_norm(x, inner, "norm1")
        q, k, v = (
            linear(value, inner, f"attn.{name}_linear").unflatten(1, (8, -1))
            for name, value in (("q", normed + pos), ("k", normed + pos), ("v", normed))
        )
        heads = []
        for head in range(8):
            scores = q[:, head] @ k[:, head].T / math.sqrt(channels / 8)
            heads.append(scores.softmax(1) @ v[:, head])
        x = x + linear(torch.cat(heads, 1), inner, "attn.proj")
        x = x + linear(F.gelu(linear(layer_norm(x, inner, "norm2"), inner, "mlp.fc1")), inner, "mlp.fc2")
    out = views.clone()
    bias = state["sep_deconv.conv1.bias"]
    for view, i, j in itertools.product(range(count), range(height), range(width)):
        # Only one pixel of four gets a value, the others the bias.
        value = bias
        if i % 2 == 0 and j % 2 == 0:
            token = x[(view * small_h + i // 2) * small_w + j // 2]
            value = bias + token * state["sep_deconv.conv1.weight"].flatten()
        out[view, :, i, j] += state["sep_deconv.pointwise.weight"][:, :, 0, 0] @ value
    return out


def windowed_pair(state, first, second):
    """GMFlow's transformer on two (C, h, w), reference 4d; odd sizes are padded by cells that no other looks at."""
    channels, real_h, real_w = first.shape
    height, width = real_h + real_h % 2, real_w + real_w % 2
    first, second = (F.pad(f, (0, width - real_w, 0, height - real_h)) for f in (first, second))
    win_h, win_w = height // 2, width // 2
    step = (2 * math.pi / (win_h + 1e-6), 2 * math.pi / (win_w + 1e-6))
    padded = [i * width + j for i in range(height) for j in range(width) if i >= real_h or j >= real_w]
    cells = list(itertools.product(range(height), range(width)))
    position = torch.stack([sine(i % win_h, j % win_w, channels, step) for i, j in cells])
    x = [f.flatten(1).T + position for f in (first, second)]
    for number in range(6):
        inner, shifted = part(state, f"layers.{number}"), number % 2 == 1
        allowed = _neighbours(height, width, shifted)
        allowed[:, padded] = allowed[:, padded].clamp(max=-100.0)
        own = [_windowed_layer(part(inner, "self_attn"), f, f, allowed) for f in x]
        x = [
            _windowed_layer(part(inner, "cross_attn_ffn"), own[0], x[1], allowed),
            _windowed_layer(part(inner, "cross_attn_ffn"), own[1], x[0], allowed),
        ]
    return [f.T.reshape(channels, height, width)[:, :real_h, :real_w] for f in x]


def _neighbours(height, width, shifted):
    """0 where two cells share a window, -100 where only rolling brings them together, -inf elsewhere."""
    win_h, win_w = height // 2, width // 2
    shift_h, shift_w = (win_h // 2, win_w // 2) if shifted else (0, 0)
    window, region = [], []
    for i, j in itertools.product(range(height), range(width)):
        rolled_i, rolled_j = (i - shift_h) % height, (j - shift_w) % width
        window.append((rolled_i // win_h, rolled_j // win_w))
        region.append((i < shift_h, j < shift_w))
    mask = torch.full((height * width, height * width), -math.inf)
    for a, b in itertools.product(range(height * width), repeat=2):
        if window[a] == window[b]:
            mask[a, b] = 0.0 if region[a] == region[b] else -100.0
    return mask


def _windowed_layer(state, source, target, mask):
    q, k, v = linear(source, state, "q_proj"), linear(target, state, "k_proj"), linear(target, state, "v_proj")
    scores = q @ k.T / math.sqrt(source.shape[1]) + mask
    message = layer_norm(linear(scores.softmax(1) @ v, state, "merge"), state, "norm1")
    if "mlp.0.weight" in state:
        both = torch.cat([source, message], 1)
        message = layer_norm(linear(F.gelu(linear(both, state, "mlp.0")), state, "mlp.2"), state, "norm2")
    return source + message


def semantic_decoder(state, features):
    """Reference 4, on (M, C, h, w)."""
    x = features
    for name in ("upconv", "upconv2"):
        inner = part(state, name)
        spread = inner["conv1.bias"].view(1, -1, 1, 1).repeat(len(x), 1, 2 * x.shape[2], 2 * x.shape[3])
        spread[:, :, ::2, ::2] += x * inner["conv1.weight"].view(1, -1, 1, 1)
        x = F.relu(batch_norm(F.conv2d(spread, inner["pointwise.weight"]), inner, "bn.0"))
    x = F.relu(batch_norm(F.conv2d(x, state["head.0.weight"], padding=1), state, "head.1"))
    return F.conv2d(x, state["head.4.weight"], state["head.4.bias"])

"""What ``torch.load(weights_only=True)`` reads by itself (torch 2.13); a test compares the two lists."""

from typing import Final

_ALLOWED: Final = frozenset(
    {
        "_codecs.encode",
        "builtins.bytearray",
        "builtins.complex",
        "builtins.set",
        "collections.Counter",
        "collections.OrderedDict",
        "torch.Size",
        "torch.Tensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch.device",
        "torch.nn.parameter.Parameter",
        "torch.per_channel_affine",
        "torch.per_channel_affine_float_qparams",
        "torch.per_channel_symmetric",
        "torch.per_tensor_affine",
        "torch.per_tensor_symmetric",
        "torch.serialization._get_layout",
        "torch.storage.TypedStorage",
        "torch.storage.UntypedStorage",
    }
)
_REBUILDS: Final = frozenset(
    {
        "device_tensor_from_cpu_tensor",
        "device_tensor_from_numpy",
        "meta_tensor_no_storage",
        "nested_tensor",
        "parameter",
        "parameter_with_state",
        "qtensor",
        "sparse_tensor",
        "tensor",
        "tensor_v2",
        "tensor_v3",
        "wrapper_subclass",
    }
)
_DTYPES: Final = frozenset(
    name
    for names in (
        ("bool", "half", "float", "double", "short", "int", "long", "bfloat16"),
        ("float16", "float32", "float64", "complex32", "complex64", "complex128"),
        ("quint8", "qint8", "qint32", "quint4x2", "quint2x4"),
        ("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2"),
        ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
        ("float4_e2m1fn_x2",),
        tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64)),
    )
    for name in names
)
_STORED: Final = frozenset(
    name
    for names in (
        ("Bool", "Byte", "Char", "Short", "Int", "Long", "Half", "BFloat16", "Float", "Double"),
        ("ComplexFloat", "ComplexDouble", "QUInt8", "QInt8", "QInt32", "QUInt4x2", "QUInt2x4"),
    )
    for name in names
)


def allowed(name: str) -> bool:
    """Whether ``torch.load(weights_only=True)`` reads this global (its list in torch 2.13)."""
    module, _, last = name.rpartition(".")
    return (
        name in _ALLOWED
        or (module == "torch._utils" and last.removeprefix("_rebuild_") in _REBUILDS)
        or (module == "torch" and last in _DTYPES)
        or (
            module in ("torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse")
            and any(last == stem + end for stem in _STORED for end in ("Storage", "Tensor"))
        )
    )

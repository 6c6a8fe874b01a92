"""A language model of some hundred kilobytes, written on the spot for a real
server to run.

Its weights are random, from a fixed seed. Beneath them one can foresee what it
says at temperature 0: the embedding of each word points to the word that
follows it in one of the CHAINS, by more than the random layers change. It
goes on from the last word of the last message.
"""

from pathlib import Path

import numpy
from gguf import GGUFWriter, TokenType

# The words of each answer. A chain that ends in a word which stands in it never ends.
CHAINS = {
    "hello": " hello Good day, my dear friend.",
    "count": " count One two three four five six seven eight nine ten.",
    "forever": " forever and on and-so on-and-on without-an-end and",
    # From here on the grammar of the server permits nothing but a call.
    "call": " call <tool_call>\\n",
}
FOREVER = " forever"
END = "</s>"

# Each message on a line. What the model reads last is the end of the last one.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] }}{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)

# The same with tools, in a form that llama.cpp recognizes: it then restricts the output of a
# required call by a grammar, and reads calls from the text.
TOOL_TEMPLATE = (
    "{% if tools %}"
    "{% for tool in tools %}{{ 'tool: ' + (tool | tojson) + '\\n' }}{% endfor %}"
    "{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'tool' %}"
    "{{ 'tool: <tool_response>' + message['content'] + '</tool_response>' }}"
    "{% else %}"
    "{{ message['role'] + ': ' + (message['content'] or '') }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '<tool_call>\\n' + ({'name': call['function']['name'],"
    " 'arguments': call['function']['arguments']} | tojson) + '\\n</tool_call>' }}"
    "{% endfor %}"
    "{% endif %}"
    "{% if not loop.last %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)

WIDTH, HEADS, LAYERS, FEED_FORWARD = 64, 4, 2, 128
CONTEXT = 1 << 17


def words(chain: str) -> list[str]:
    return [" " + word.replace("\\n", "\n") for word in chain.split()]


def answer(start: str) -> str:
    """What it says after this word."""
    return "".join(words(CHAINS[start])[1:])


def write(path: Path, template: str = TEMPLATE) -> None:
    random = numpy.random.default_rng(20)
    known = sorted({word for chain in CHAINS.values() for word in words(chain)})
    pieces = ["<unk>", "<s>", END, *(f"<0x{byte:02X}>" for byte in range(256)), *known]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    types += [TokenType.BYTE] * 256 + [TokenType.USER_DEFINED] * len(known)
    number = {piece: n for n, piece in enumerate(pieces)}

    def normal(*shape: int, scale: float = 1.0) -> numpy.ndarray:
        return (random.standard_normal(shape) * scale).astype(numpy.float32)

    embedding = normal(len(pieces), WIDTH)
    embedding[: 3 + 256] = normal(1, WIDTH) + normal(3 + 256, WIDTH, scale=0.1)
    output = normal(len(pieces), WIDTH, scale=0.1)
    output[number[words(CHAINS["hello"])[1]]] += embedding[: 3 + 256].mean(axis=0)
    for chain in CHAINS.values():
        sequence = words(chain)
        if sequence[-1] not in sequence[:-1]:
            sequence.append(END)
        for word, following in zip(sequence, sequence[1:]):
            output[number[following]] += embedding[number[word]]

    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(template)

    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", numpy.ones(WIDTH, numpy.float32))
    writer.add_tensor("output.weight", output)
    for n in range(LAYERS):
        layer = f"blk.{n}"
        writer.add_tensor(f"{layer}.attn_norm.weight", numpy.ones(WIDTH, numpy.float32))
        writer.add_tensor(f"{layer}.ffn_norm.weight", numpy.ones(WIDTH, numpy.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{layer}.{name}.weight", normal(WIDTH, WIDTH, scale=0.05))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{layer}.{name}.weight", normal(FEED_FORWARD, WIDTH, scale=0.05))
        writer.add_tensor(f"{layer}.ffn_down.weight", normal(WIDTH, FEED_FORWARD, scale=0.05))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

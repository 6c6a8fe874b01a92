# What the measurements share; sourced, from the root of the repository.

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(realpath "$target")

# Prints where the environment of a peer is, made anew only when its requirements change.
environment() {
    local requirements=benches/peers/$1/requirements.txt folder
    folder=$target/peers/$1-$(sha256sum "$requirements" | cut -c-12)
    if [[ ! -e $folder/ready ]]; then
        rm -rf "$folder"
        python3 -m venv "$folder"
        "$folder/bin/pip" install --quiet --disable-pip-version-check \
            --requirement "$requirements" >&2
        touch "$folder/ready"
    fi
    echo "$folder"
}

# Prints the version of a package in a peer's environment.
version() {
    "$1/bin/pip" list --format=freeze --disable-pip-version-check | sed -n "s/^$2==//p"
}

# Prints what was built, by what, and where it ran.
conditions() {
    echo "Duologue $(cargo metadata --format-version 1 --no-deps |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["packages"][0]["version"])')," \
        "built by rustc $(rustc --version | cut -d' ' -f2);" \
        "$1, Python $("$2/bin/python" -c 'import platform; print(platform.python_version())');" \
        "Linux $(uname -r | grep -oE '^[0-9]+\.[0-9]+') on $(uname -m), $(nproc) cores."
}

# Builds a benchmark and prints where its program is.
program() {
    cargo bench --bench "$1" --no-run --message-format=json |
        python3 -c 'import json, sys
for line in sys.stdin:
    unit = json.loads(line)
    if unit.get("executable") and unit["target"]["kind"] == ["bench"]:
        print(unit["executable"])'
}

# Puts a text between two marks of the page: `<!-- NAME: begin -->` and `end`.
put() {
    python3 - docs/PERFORMANCE.md "$1" "$2" <<'PYTHON'
import pathlib, sys

page, name, text = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
before, rest = page.read_text().split(begin)
_, after = rest.split(end)
page.write_text(f"{before}{begin}\n{text.strip()}\n\n{end}{after}")
PYTHON
}

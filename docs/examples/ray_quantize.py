"""Ray: python ray_quantize.py MODEL TYPE OUT PARTS [FLAG ...]

One task makes one part, wherever Ray puts it; a task that a lost node took along is started again. MODEL and OUT lie where all nodes see
them. The flags go to `coffer quantize` (--text, --imatrix, --pin ...). COFFER names the program, if it is not on the path.
"""

import os
import subprocess
import sys

import ray

COFFER = os.environ.get("COFFER", "coffer")


@ray.remote(num_cpus=1, max_retries=3)
def part(index, parts, model, scheme, out, flags):
    command = [COFFER, "quantize", model, "--type", scheme, "-o", out, "--threads", "1", "--progress", "none"]
    subprocess.run([*command, "--shard", f"{index}/{parts}", *flags], check=True)
    return f"{out}.shard-{index}-of-{parts}"


def main(model, scheme, out, parts, *flags):
    ray.init()
    parts = int(parts)
    made = ray.get([part.remote(i, parts, model, scheme, out, flags) for i in range(parts)])
    subprocess.run([COFFER, "gather", model, *made, "-o", out, "--receipt", f"{out}.json"], check=True)
    for shard in made:
        os.remove(shard)


if __name__ == "__main__":
    main(*sys.argv[1:])

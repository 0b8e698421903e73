"""Options and texts that make no sense: one clear sentence, exit code 2, nothing written."""

import pytest

from tests.cli.world import refused
from tests.tiny import NUM_BLOCKS, POSITIONS, snapshot

OPTIONS = {
    "target 0%": ("verify-redundancy --target 0%", "not between 0% and 100%"),
    "target 100%": ("verify-redundancy --target 100%", "not between 0% and 100%"),
    "target -3": ("verify-redundancy --target -3", "removes no block"),
    "target abc": ("verify-redundancy --target abc", "type a share such as 20% or 0.2"),
    "target nan": ("remove-blocks --target nan", "type a share such as 20% or 0.2"),
    "target of all": (f"remove-blocks --target {NUM_BLOCKS}", "at most 3 can go"),
    "target of too many": ("remove-blocks --target 99", "at most 3 can go"),
    "target of everything between the ends": ("remove-blocks --target 4", "at most 3 can go"),
    "protected all": ("verify-redundancy --protect-first 4 --protect-last 2 --force", "at most 0 can go"),
    "protected -1": ("verify-redundancy --protect-first -1", "type 0 or more"),
    "error rate": ("verify-redundancy --error-rate 2", "--error-rate 2"),
    "chunk 0": ("verify-redundancy --chunk-windows 0", "type 1 or more"),
    "batch -1": ("verify-redundancy --batch-size -1", "type 1 or more"),
    "search": ("verify-redundancy --search fast", "eliminate"),
    "block out of range": (f"remove-blocks --blocks 1,{NUM_BLOCKS}", "the model has blocks 0 to 5"),
    "block -1": ("remove-blocks --blocks -1", "the model has blocks 0 to 5"),
    "a block twice": ("remove-blocks --blocks 2,3,2", "names a block twice"),
    "all blocks": ("remove-blocks --blocks 0,1,2,3,4,5", "at least one must stay"),
    "blocks in letters": ("remove-blocks --blocks a,b", "type for example --blocks 3,7,12"),
    "no blocks": ("remove-blocks --blocks=", "type for example --blocks 3,7,12"),
    "shard size": ("remove-blocks --blocks 2 --max-shard-size lots", "is not a size"),
    "shard size 0": ("remove-blocks --blocks 2 --max-shard-size 0", "less than one byte"),
    "shard size -5": ("remove-blocks --blocks 2 --max-shard-size -5GB", "is not a size"),
    "sparsity 1": ("global-prune --sparsity 1", "at least 0 and below 1, and 1 is not"),
    "sparsity 100%": ("global-prune --sparsity 100%", "at least 0 and below 1, and 1 is not"),
    "sparsity -0.1": ("global-prune --sparsity -0.1", "neither a ratio such as 0.7"),
    "sparsity in letters": ("global-prune --sparsity half", "neither a ratio such as 0.7"),
    "sparsity nan": ("global-prune --sparsity nan", "neither a ratio such as 0.7"),
    "pattern 0:4": ("global-prune --pattern 0:4", "at least one zero, and fewer than 4"),
    "pattern 5:4": ("global-prune --pattern 5:4", "at least one zero, and fewer than 4"),
    "pattern 4:4": ("global-prune --pattern 4:4", "at least one zero, and fewer than 4"),
    "pattern x:y": ("global-prune --pattern x:y", "not of the form ZEROS:GROUP"),
    "a pattern that does not fit": ("global-prune --pattern 2:5", "layers.0.self_attn.q_proj.weight: The pattern 2:5"),
    "sparsity and pattern": ("global-prune --sparsity 0.5 --pattern 2:4", "exclude each other"),
    "layers that are not there": ("global-prune --layers 3-9", "the model has blocks 0 to 5"),
    "layers in letters": ("global-prune --layers most", "type all, first-half, 0-15"),
    "parts": ("global-prune --parts mlp", "type --parts with any of attention, ffn, routers"),
    "nothing left": ("global-prune --exclude *", "No matrix is left to prune"),
    "alpha 0": ("global-prune --alpha 0", "alpha must be positive"),
    "beta -1": ("global-prune --beta -1", "beta must be positive"),
    "gamma nan": ("global-prune --gamma nan", "gamma must be positive"),
    "rounds 0": ("global-prune --rounds 0", "--rounds 0 is out of range; type 1 or more"),
    "damping -1": ("global-prune --damping -1", "damping must be at least 0"),
    "block size 0": ("global-prune --block-size 0", "--block-size 0 is out of range; type 1 or more"),
    "method": ("global-prune --method obc", "sparsegpt"),
    "an output of a pruning that is a file": ("global-prune --out {text}", "is a file; give another directory"),
    "more samples than windows": ("global-prune --run {run} --samples 1000", "is more than the"),
    "no calibration": ("global-prune --calibration {folder}/notes", "it is no calibration"),
    "samples 0": ("calibrate --samples 0", "--samples 0 is out of range; type 1 or more"),
    "samples -2": ("calibrate --samples -2", "--samples -2 is out of range; type 1 or more"),
    "samples in letters": ("calibrate --samples many", "valid integer"),
    "seq-len 0": ("calibrate --seq-len 0", "--seq-len 0 is out of range; type 2 or more"),
    "seq-len -5": ("calibrate --seq-len -5", "--seq-len -5 is out of range; type 2 or more"),
    "seq-len beyond positions": (f"calibrate --force --seq-len {POSITIONS + 1}", f"type --seq-len {POSITIONS} or less"),
    "seed -1": ("calibrate --seed -1", "--seed -1 is out of range"),
    "bench batch 0": ("bench --batch 0", "--batch 0 is out of range; type 1 or more"),
    "bench ppl-seq-len": (f"bench --ppl-seq-len {POSITIONS + 1}", f"type --ppl-seq-len {POSITIONS} or less"),
    "bench prefill": (f"bench --no-ppl --prefill {POSITIONS + 1}", f"type --prefill {POSITIONS} or less"),
    "bench gen": ("bench --no-ppl --gen 1000", "together are beyond the model's 256 positions"),
    "bench nothing": ("bench --no-ppl --no-speed", "nothing to measure"),
    "bench batch in letters": ("bench --batch many", "type 64 or 1,8,64"),
    "bench batch twice": ("bench --batch 8,8", "names a size twice"),
    "bench batch list with 0": ("bench --batch 8,0", "--batch 0 is out of range"),
    "bench max-seconds": ("bench --max-seconds -1", "--max-seconds -1 is out of range; type 0 or more"),
    "bench max-seconds without end": ("bench --max-seconds inf", "--max-seconds inf is out of range"),
    "bench no task": ("bench --tasks piqa,,boolq", "has an empty name"),
    "bench limit without tasks": ("bench --limit 10", "type --tasks with them"),
    "bench condition": ("bench --fail-if ppl=1", "is not of the form METRIC>NUMBER"),
    "bench metric": ("bench --no-ppl --fail-if ppl_ratio>1.5", "measures no 'ppl_ratio'"),
    "unknown option": ("bench --seqlen 32", "No such option: --seqlen"),
    "device": ("calibrate --device gpu", "type auto, cpu or cuda"),
    "dtype": ("calibrate --dtype int8", "bfloat16"),
    "bench device": ("bench --device gpu", "type auto, cpu or cuda"),
    "unknown source": ("calibrate --force --source wikitex2", "Did you mean wikitext2?"),
    "a mixture without a count": ("calibrate --force --source python-docs:4,c4", "'c4' has no number of windows"),
    "a mixture of nothing": ("calibrate --force --source python-docs:0,c4:3", "takes 0 windows of 'python-docs'"),
    "a mixture of self": ("calibrate --force --source python-docs:3,self:3", "which cannot be mixed"),
    "a mixture and another count": (
        "calibrate --force --source python-docs:4,c4:3 --samples 8",
        "--samples 8 is not the 7 windows",
    ),
    "a source of a mixture that is missing": (
        "sweep {intact} --targets 1 --source {text}:4,nosuch.txt:3 --no-speed --ppl {text} --run {folder}/x",
        "There is no file 'nosuch.txt'",
    ),
    "a source that is missing": ("calibrate --force --source nosuch.txt", "There is no file 'nosuch.txt'"),
    "a data set without network": ("calibrate --force --source owner/data", "--source python-docs or a local file"),
    "two bench texts in one": (
        "bench --ppl wikitext2,c4",
        "Several texts are typed one by one, as in --ppl wikitext2 --ppl c4.",
    ),
    "a bench text without network": ("bench --ppl owner/data", "--ppl python-docs or a local file"),
    "a Hub model without network": ("bench owner/name", "to go on offline, type the path"),
    "sampling more rows than there are": ("calibrate --force --source {text} --sampling rows", "--sampling windows"),
    "a run of another model": ("calibrate {model}", "belongs to the model"),
    "a run that is a file": ("calibrate {model} --run {text}", "is a file; type --run OTHER"),
    "a run that cannot be": (
        "calibrate {intact} --run /proc/nosuch/run --source {text} --samples 2 --seq-len 16",
        "OTHER",
    ),
    "an output that is a file": ("remove-blocks --blocks 2 --out {text}", "is a file; give another directory"),
    "an output in the source": ("remove-blocks --blocks 2 --out {intact}/x", "inside the model that is to be pruned"),
    "an output over the source": ("remove-blocks --blocks 2 --force --out {intact}", "the model that is to be pruned"),
    "an output over the run": ("remove-blocks --blocks 2 --force --out {run}", "holds the run directory"),
    "an output with other content": ("remove-blocks --blocks 2 --force --out {folder}/notes", "is no checkpoint"),
    "an output of another checkpoint": (
        "remove-blocks --blocks 2 --out {model}",
        "not even --force replaces it; give another directory with --out",
    ),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_a_wrong_option_is_refused(case, world, llmprune):
    command, words = OPTIONS[case]
    (world.folder / "notes").mkdir()
    (world.folder / "notes" / "a.txt").write_text("mine")
    places = {"model": world.model, "intact": world.intact, "text": world.text, "folder": world.folder}
    typed = command.format(run=world.run, **places).split(" ")
    run = [] if "--run" in typed else ["--run", world.run]
    before = snapshot(world.intact)
    assert words in refused(llmprune, world.folder, [*typed, *run])
    assert snapshot(world.intact) == before


FIRST = [case for case, (command, _) in OPTIONS.items() if "--run" not in command and "{" not in command]


@pytest.mark.parametrize("case", [case for case in FIRST if case != "a Hub model without network"])
def test_a_first_command_with_a_wrong_option_makes_no_run_directory(case, world, llmprune):
    command, *options = OPTIONS[case][0].split(" ")
    refused(llmprune, world.folder, [command, world.intact, *options, "--run", world.folder / "new" / "run"])


TEXTS = {
    "empty": (b"", "is empty"),
    "white space": (b" \n\n ", "is empty"),
    "too short": (b"The sea.", "{length} 8 or less"),
    "binary": (b"\0\1\2", "binary file"),
    "not UTF-8": (b"\xff\xfe\xff", "not UTF-8"),
}


TAKE_TEXT = {"calibrate": ("--source", "--seq-len"), "bench": ("--ppl", "--ppl-seq-len")}


@pytest.mark.parametrize("command", TAKE_TEXT)
@pytest.mark.parametrize("case", TEXTS)
def test_a_text_that_cannot_be_read_is_refused(case, command, world, llmprune):
    content, words = TEXTS[case]
    path = world.folder / "text.txt"
    path.write_bytes(content)
    source, length = TAKE_TEXT[command]
    new = ["--run", world.folder / "new"]
    complaint = refused(llmprune, world.folder, [command, world.intact, source, path, length, 32, *new])
    assert words.format(length=f" {length}") in complaint

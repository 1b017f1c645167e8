"""Training: one job per paper, experiment, optimizer and block of seeds; what asks for a GPU has a rule of its own."""


rule train:
    input:
        datasets=experiment_datasets,
        data=rules.generate.output.data,
        start=started_from,
    output:
        trace="results/{paper}/runs/{experiment}/{optimizer}/{seeds}.parquet",
        parameters="results/{paper}/runs/{experiment}/{optimizer}/{seeds}.safetensors",
    log:
        "results/{paper}/logs/train/{experiment}/{optimizer}/{seeds}.log",
    wildcard_constraints:
        paper=f"(?!{gpu_runs()})[a-z0-9]+",
    conda:
        "../../envs/cpu.yaml"
    threads: needs("threads")
    resources:
        mem_mb=needs("mem_mb"),
        runtime=needs("runtime"),
    params:
        python=python,
        plan=handed(jobs.for_run, "optimizer"),
        code=train_code,
        device=training_device,
        events=events,
    shell:
        "{params.python} -m workflow.lib train"
        " --paper {wildcards.paper}"
        " --experiment {wildcards.experiment}"
        " --optimizer {wildcards.optimizer}"
        " --plan {params.plan:q}"
        " --datasets {input.datasets:q}"
        " --seeds {wildcards.seeds}"
        " --data {input.data:q}"
        " --start {input.start:q}"
        " --device {params.device}"
        " --threads {threads}"
        " --events {params.events:q}"
        " --trace {output.trace:q}"
        " --parameters {output.parameters:q}"
        " 2>&1 | tee {log:q}"


use rule train as train_on_gpu with:
    wildcard_constraints:
        paper=f"(?={gpu_runs()})[a-z0-9]+",
    conda:
        "../../envs/gpu.yaml"
    resources:
        mem_mb=needs("mem_mb"),
        runtime=needs("runtime"),
        gpu=gpus,

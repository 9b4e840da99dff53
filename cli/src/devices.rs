//! `wgfuse devices`: what there is to run on.

use anyhow::{Context, Result};
use serde_json::json;
use wgfuse::Device;

use crate::print::{self, say};

#[derive(clap::Args)]
pub struct Args {
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
    /// What `wgfuse compile --target FILE` takes, of adapter N
    #[arg(long, value_name = "N")]
    target: Option<usize>,
}

const ADVICE: &str = if cfg!(target_os = "linux") {
    "install your GPU's Vulkan driver, or a software one (Debian, Ubuntu: apt-get install mesa-vulkan-drivers)"
} else {
    "install or update your GPU's driver"
};

pub fn devices(args: Args) -> Result<()> {
    let adapters = Device::adapters();
    if let Some(number) = args.target {
        let found = adapters.iter().find(|it| it.index == number);
        say!("{}", found.with_context(|| format!("there is no adapter {number}"))?.target);
        return Ok(());
    }
    if args.json {
        let list: Vec<_> = adapters
            .iter()
            .map(|it| {
                let target = &it.target;
                json!({
                    "index": it.index,
                    "name": it.name,
                    "kind": it.kind,
                    "backend": it.backend,
                    "driver": it.driver,
                    "suitable": it.suitable,
                    "features": {
                        "subgroup": target.subgroup,
                        "f16": target.f16,
                        "cooperative": target.cooperative,
                        "i64": target.i64,
                        "timestamps": it.timestamps,
                    },
                    "limits": {
                        "storage_buffers": target.max_storage_buffers,
                        "binding_size": target.max_binding_size,
                        "buffer_size": target.max_buffer_size,
                        "offset_alignment": target.offset_alignment,
                        "workgroup_invocations": target.max_workgroup_invocations,
                        "workgroup_size": target.max_workgroup_size,
                        "workgroups_per_dimension": target.max_workgroups_per_dimension,
                        "workgroup_memory": target.max_workgroup_memory,
                    },
                })
            })
            .collect();
        let advice = adapters.is_empty().then_some(ADVICE);
        print::json(&json!({ "adapters": list, "advice": advice }));
        return Ok(());
    }
    for it in &adapters {
        let target = &it.target;
        let yes = |it: bool| if it { "yes" } else { "no" };
        say!("{}  {}", it.index, it.name);
        say!("   kind        {}{}", it.kind, if it.suitable { "" } else { ", not taken by `auto`" });
        say!("   backend     {}, driver {}", it.backend, it.driver);
        let subgroup = match target.subgroup {
            None => "no".into(),
            Some((low, high)) if low == high => format!("{low} wide"),
            Some((low, high)) => format!("{low} to {high} wide"),
        };
        say!(
            "   features    subgroups {subgroup}, f16 {}, matrices of f16 {}, 64-bit integers {}, timestamps {}",
            yes(target.f16),
            yes(!target.cooperative.is_empty()),
            yes(target.i64),
            yes(it.timestamps)
        );
        let [x, y, z] = target.max_workgroup_size;
        say!(
            "   workgroups  {} invocations ({x}x{y}x{z}), {} of memory, {} a dimension",
            target.max_workgroup_invocations,
            print::bytes(target.max_workgroup_memory as u64),
            target.max_workgroups_per_dimension
        );
        say!(
            "   buffers     {} a kernel, {} a binding, {} each",
            target.max_storage_buffers,
            print::bytes(target.max_binding_size),
            print::bytes(target.max_buffer_size)
        );
    }
    match adapters.is_empty() {
        true => say!("No GPU adapter was found; models run on the CPU. To get one: {ADVICE}."),
        false => say!("\nChoose one with --device <number>; --device cpu runs on the processor."),
    }
    Ok(())
}

use ashlar_llb as llb;

fn main() {
    let _ = llb::image("a").run(["x"]).secret(llb::Ssh::new());
}

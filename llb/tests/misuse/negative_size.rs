use ashlar_llb as llb;

fn main() {
    let _ = llb::Tmpfs::sized(-1);
}

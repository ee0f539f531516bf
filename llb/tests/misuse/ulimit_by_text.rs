use ashlar_llb as llb;

fn main() {
    let _ = llb::image("a").ulimit("nofile", 1, 2);
}

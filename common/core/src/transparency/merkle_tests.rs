use proptest::prelude::*;

use super::*;

/// A tree that has all of its leaves at hand.
struct Whole(Vec<Digest>);

impl Subtrees for Whole {
    type Error = std::convert::Infallible;

    fn full(&mut self, level: u32, index: u64) -> Result<Digest, Self::Error> {
        let count = 1_usize << level;
        let from = usize::try_from(index).unwrap() * count;
        Ok(by_the_book(&self.0[from..from + count]))
    }
}

/// The definition, word by word (RFC 9162, section 2.1.1).
fn by_the_book(leaves: &[Digest]) -> Digest {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        leaves => {
            let middle = usize::try_from(split(leaves.len() as u64)).unwrap();
            node_hash(&by_the_book(&leaves[..middle]), &by_the_book(&leaves[middle..]))
        }
    }
}

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn hex(digest: Digest) -> String {
    digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn roots_are_those_that_others_compute() {
    // The inputs and roots that implementations of Certificate Transparency test themselves with.
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut frontier = Frontier::default();
    assert_eq!(hex(frontier.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (input, root) in inputs.into_iter().zip(roots) {
        frontier.push(leaf_hash(input));
        assert_eq!(hex(frontier.root()), root);
    }
}

#[test]
fn every_leaf_and_every_older_tree_is_proved_and_nothing_else() {
    for size in 1..=40_u64 {
        let all = leaves(usize::try_from(size).unwrap());
        let mut tree = Whole(all.clone());
        let root = by_the_book(&all);
        for index in 0..size {
            let leaf = all[usize::try_from(index).unwrap()];
            let proof = inclusion_proof(&mut tree, index, size).unwrap();
            verify_inclusion(leaf, index, size, &proof, &root).unwrap();
            assert!(verify_inclusion(leaf, index + 1, size, &proof, &root).is_err());
            assert!(verify_inclusion(Digest([1; 32]), index, size, &proof, &root).is_err());
            for at in 0..proof.len() {
                let mut other = proof.clone();
                other[at].0[7] ^= 1;
                assert_eq!(verify_inclusion(leaf, index, size, &other, &root), Err(ProofFault::Root));
                other.remove(at);
                assert!(verify_inclusion(leaf, index, size, &other, &root).is_err());
            }
            let more = [&proof[..], &[root]].concat();
            assert!(verify_inclusion(leaf, index, size, &more, &root).is_err());
        }
        for old in 0..=size {
            let older = (old, by_the_book(&all[..usize::try_from(old).unwrap()]));
            let proof = consistency_proof(&mut tree, old, size).unwrap();
            verify_consistency(older, (size, root), &proof).unwrap();
            assert!(verify_consistency((old, Digest([1; 32])), (size, root), &proof).is_err());
            if old > 0 {
                assert!(verify_consistency(older, (size, Digest([1; 32])), &proof).is_err());
            }
            assert!(verify_consistency(older, (size, root), &[&proof[..], &[root]].concat()).is_err());
            for at in 0..proof.len() {
                let mut other = proof.clone();
                other[at].0[7] ^= 1;
                assert!(verify_consistency(older, (size, root), &other).is_err(), "{old} of {size}, {at}");
                other.remove(at);
                assert!(verify_consistency(older, (size, root), &other).is_err());
            }
        }
        assert_eq!(verify_consistency((size + 1, root), (size, root), &[]), Err(ProofFault::Range(size)));
    }
}

#[test]
fn a_frontier_is_known_by_its_parts() {
    let mut frontier = Frontier::default();
    for leaf in leaves(11) {
        frontier.push(leaf);
    }
    let again = Frontier::from_parts(frontier.size(), frontier.peaks().to_vec()).unwrap();
    assert_eq!(again, frontier);
    assert!(Frontier::from_parts(12, frontier.peaks().to_vec()).is_err());
    assert!(Frontier::from_parts(u64::MAX, vec![Digest([0; 32]); 64]).is_err());
}

proptest! {
    #[test]
    fn edges_and_ranges_agree_with_the_definition(size in 0_usize..300) {
        let all = leaves(size);
        let mut frontier = Frontier::default();
        for leaf in &all {
            frontier.push(*leaf);
        }
        prop_assert_eq!(frontier.root(), by_the_book(&all));
        prop_assert_eq!(subtree(&mut Whole(all.clone()), 0, size as u64).unwrap(), by_the_book(&all));
    }

    #[test]
    fn whatever_a_verifier_is_given_it_answers(index: u64, size: u64, old: u64, count in 0_usize..70) {
        let proof = vec![Digest([5; 32]); count];
        let root = Digest([6; 32]);
        prop_assert!(verify_inclusion(root, index, size, &proof, &root).is_err() || (index == 0 && size == 1 && count == 0));
        let _ = verify_consistency((old, root), (size, root), &proof);
    }
}

// Programs of ours for pods of a test cluster. See tests/cluster/lib/build.sh.
module podgate.test/own

go 1.26.0

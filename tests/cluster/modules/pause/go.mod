// What keeps a pod's namespaces while its containers come and go. See tests/cluster/lib/build.sh.
module podgate.test/pause

go 1.26.0

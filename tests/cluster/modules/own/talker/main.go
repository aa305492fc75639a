// SPDX-License-Identifier: Apache-2.0 OR MIT

// A client that talks from its first instruction until it is told to end, and says what became of it.
//
// Everything it sends begins with its name, the first argument. To each `udp:HOST:PORT` it sends a numbered datagram every
// 20 ms, later every 200 ms. To each `tcp:HOST:PORT` it makes one connection, on which every line is sent back: first `NAME open N`, where
// N is how many segments it had to send again up to then, then `NAME still` every 200 ms, and in the end `NAME bye`.
// What fails is printed, and is not tried again.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	betweenDatagrams = 20 * time.Millisecond
	later            = 200 * time.Millisecond
	// So many datagrams are sent quickly.
	quickly      = 100
	betweenLines = 200 * time.Millisecond
	// More than a connection needs on a busy machine, less than the grace period of a pod.
	patience = 8 * time.Second
	// Where `struct tcp_info` counts what was sent again, in all.
	totalRetransmissions = 100
)

func main() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	end := make(chan struct{})
	var all sync.WaitGroup
	name := os.Args[1]
	for _, target := range os.Args[2:] {
		talk, place := talkTCP, strings.TrimPrefix(target, "tcp:")
		if strings.HasPrefix(target, "udp:") {
			talk, place = talkUDP, strings.TrimPrefix(target, "udp:")
		}
		all.Go(func() {
			if err := talk(name, place, end); err != nil {
				fmt.Println(target, err)
			}
		})
	}
	<-told
	close(end)
	all.Wait()
}

func talkUDP(name, place string, end <-chan struct{}) error {
	connection, err := net.Dial("udp", place)
	if err != nil {
		return err
	}
	ticks := time.NewTicker(betweenDatagrams)
	for number := 1; ; number++ {
		if number == quickly {
			ticks.Reset(later)
		}
		// Nobody listening there is not the sender's affair.
		fmt.Fprintf(connection, "%s %d", name, number)
		select {
		case <-ticks.C:
		case <-end:
			return nil
		}
	}
}

func talkTCP(name, place string, end <-chan struct{}) error {
	connection, err := net.DialTimeout("tcp", place, patience)
	if err != nil {
		return err
	}
	defer connection.Close()
	again, err := retransmissions(connection.(*net.TCPConn))
	if err != nil {
		return err
	}
	echoes := bufio.NewReader(connection)
	say := func(line string) error {
		connection.SetDeadline(time.Now().Add(patience))
		if _, err := fmt.Fprintln(connection, line); err != nil {
			return err
		}
		echo, err := echoes.ReadString('\n')
		if err == nil && echo != line+"\n" {
			err = fmt.Errorf("said %q and heard %q", line, echo)
		}
		return err
	}
	if err := say(fmt.Sprintf("%s open %d", name, again)); err != nil {
		return err
	}
	ticks := time.Tick(betweenLines)
	for {
		select {
		case <-ticks:
			if err := say(name + " still"); err != nil {
				return err
			}
		case <-end:
			return say(name + " bye")
		}
	}
}

func retransmissions(connection *net.TCPConn) (uint32, error) {
	raw, err := connection.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info [totalRetransmissions + 4]byte
	size := uint32(len(info))
	var failed syscall.Errno
	err = raw.Control(func(socket uintptr) {
		_, _, failed = syscall.Syscall6(syscall.SYS_GETSOCKOPT, socket, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err == nil && failed != 0 {
		err = failed
	}
	return binary.NativeEndian.Uint32(info[totalRetransmissions:]), err
}

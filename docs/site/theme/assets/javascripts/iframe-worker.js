// Pages that lie on a disk may not start workers, so the search runs in a hidden frame of this page instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(address) {
      super()
      this.waiting = []
      this.onerror = null
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.frame.srcdoc = "<!doctype html>"
      this.frame.addEventListener("load", () => this.begin(new URL(address, location.href)), { once: true })
      const add = () => document.body.append(this.frame)
      if (document.body) add()
      else addEventListener("DOMContentLoaded", add, { once: true })
    }

    // The script sees the frame as its global object: what it posts comes here, and what comes from here it hears.
    begin(address) {
      const inner = this.frame.contentWindow
      inner.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = () => { throw new Error("Only one language can be searched from a disk") }
      const script = inner.document.createElement("script")
      script.src = address.href
      script.onload = () => {
        for (const data of this.waiting.splice(0)) this.tell(data)
        this.waiting = null
      }
      script.onerror = event => this.onerror?.(event)
      inner.document.body.append(script)
    }

    tell(data) {
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data)
      else this.tell(data)
    }

    terminate() {
      this.frame.remove()
    }
  }
}
